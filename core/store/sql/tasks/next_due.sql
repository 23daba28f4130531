-- Return what the promoter has to do: in how many seconds a task is tried again, whether some wait
-- for a limit, and whether projects have clocks.
SELECT
    (
        SELECT extract(EPOCH FROM min(p.not_before) - now())::double precision
        FROM task_pending AS p
        WHERE p.reason = 'retry'
    ) AS due_s,
    EXISTS (SELECT FROM task_pending AS p WHERE p.reason <> 'retry') AS is_waited,
    EXISTS (SELECT FROM share_clocks) AS has_clocks
