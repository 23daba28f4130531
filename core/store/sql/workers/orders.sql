-- Return what is asked of workers, and the leases each holds, with how long each has run.
SELECT
    w.id AS worker_id,
    w.directive,
    w.is_draining,
    w.lost_at IS NOT NULL AS is_lost,
    w.quarantine_reason,
    coalesce(extract(EPOCH FROM w.quarantined_until - now()), 0)::double precision AS quarantine_s,
    l.attempt_id,
    l.job_id,
    l.started_at IS NOT NULL AS is_running,
    coalesce(extract(EPOCH FROM now() - l.started_at), 0)::double precision AS running_s
FROM workers AS w
LEFT JOIN task_leases AS l ON w.id = l.worker_id
WHERE w.id = ANY($1::bigint[])
