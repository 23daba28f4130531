-- Return closed jobs that still have tasks, of a window of each queue table, and where it ended.
WITH ready AS MATERIALIZED (
    SELECT
        r.task_id,
        r.job_id
    FROM task_ready AS r
    WHERE r.task_id > $1
    ORDER BY r.task_id
    LIMIT $4
),
pending AS MATERIALIZED (
    SELECT
        p.task_id,
        p.job_id
    FROM task_pending AS p
    WHERE p.task_id > $2
    ORDER BY p.task_id
    LIMIT $4
),
lease AS MATERIALIZED (
    SELECT
        l.attempt_id,
        l.job_id
    FROM task_leases AS l
    WHERE l.attempt_id > $3
    ORDER BY l.attempt_id
    LIMIT $4
),
-- A full window has more behind it; after the last one the first follows.
window_end AS (
    SELECT
        (SELECT max(ready.task_id) FROM ready HAVING count(*) = $4) AS ready_after,
        (SELECT max(pending.task_id) FROM pending HAVING count(*) = $4) AS pending_after,
        (SELECT max(lease.attempt_id) FROM lease HAVING count(*) = $4) AS lease_after
),
leftover AS (
    SELECT
        j.id AS job_id,
        j.result_msg
    FROM (
        SELECT ready.job_id FROM ready
        UNION
        SELECT pending.job_id FROM pending
        UNION
        SELECT lease.job_id FROM lease
    ) AS queued
    CROSS JOIN LATERAL (
        -- One by one: all closed jobs together are the whole history.
        SELECT
            jobs.id,
            jobs.phase,
            jobs.result_msg
        FROM jobs
        WHERE jobs.id = queued.job_id
        OFFSET 0
    ) AS j
    WHERE j.phase = 'closed'
)
SELECT
    coalesce(window_end.ready_after, 0) AS ready_after,
    coalesce(window_end.pending_after, 0) AS pending_after,
    coalesce(window_end.lease_after, 0) AS lease_after,
    leftover.job_id,
    leftover.result_msg
FROM window_end
LEFT JOIN leftover ON true
