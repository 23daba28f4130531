-- Return the leases a worker holds, and since when each runs.
SELECT
    l.attempt_id,
    l.job_id,
    l.started_at IS NOT NULL AS is_running,
    coalesce(extract(EPOCH FROM now() - l.started_at), 0)::double precision AS running_s
FROM task_leases AS l
WHERE l.worker_id = $1
