-- The counted tasks of a job, each with what is known of it: outcome, lease, progress, result.
SELECT
    t.id,
    t.module,
    t.engine,
    o.outcome,
    o.reason,
    o.result_code,
    o.result_msg,
    o.closed_at,
    o.attempt_id AS accepted_attempt_id,
    o.result,
    l.started_at AS lease_started_at,
    first_start.at AS started_at,
    coalesce(l.number, tried.number, 0) AS attempts,
    w.name AS worker,
    p.files_done,
    p.files_planned,
    EXISTS (
        SELECT FROM artifacts a
        WHERE a.task_id = t.id AND a.attempt_id = o.attempt_id AND a.name = 'result.json'
    ) AS has_result,
    coalesce(l.attempt_id, tried.attempt_id) AS last_attempt_id
FROM tasks t
LEFT JOIN task_outcomes o ON o.task_id = t.id
LEFT JOIN task_leases l ON l.task_id = t.id
LEFT JOIN attempt_progress p ON p.attempt_id = l.attempt_id
LEFT JOIN LATERAL (
    SELECT a.number, a.attempt_id, a.worker_id
    FROM task_attempts a
    WHERE a.task_id = t.id
    ORDER BY a.number DESC, a.attempt_id DESC
    LIMIT 1
) tried ON true
LEFT JOIN LATERAL (
    SELECT min(a.started_at) AS at FROM task_attempts a WHERE a.task_id = t.id
) ended_start ON true
LEFT JOIN LATERAL (
    SELECT least(ended_start.at, l.started_at) AS at
) first_start ON true
LEFT JOIN workers w ON w.id = coalesce(l.worker_id, tried.worker_id)
WHERE t.job_id = $1 AND t.kind = 'engine'
ORDER BY t.id
LIMIT 1000
