-- Return the running attempt a lease token proves: the guard of its log and artifacts.
SELECT
    l.task_id,
    l.attempt_id
FROM task_leases AS l
CROSS JOIN LATERAL (
    SELECT jobs.phase
    FROM jobs
    WHERE jobs.id = l.job_id
    OFFSET 0
) AS j
WHERE
    l.attempt_id = $2
    AND l.worker_id = $1
    AND l.token_hash = $3
    AND l.started_at IS NOT NULL
    AND j.phase <> 'closed'
