-- Return what is asked of workers, and the leases each holds, with how long each has run.
SELECT
    w.id AS worker_id,
    w.directive,
    w.is_draining,
    w.lost_at IS NOT NULL AS is_lost,
    w.quarantine_reason,
    coalesce(extract(EPOCH FROM w.quarantined_until - now()), 0)::double precision AS quarantine_s,
    held.attempt_id,
    held.job_id,
    held.is_running,
    held.running_s
FROM workers AS w
LEFT JOIN LATERAL (
    SELECT
        l.attempt_id,
        l.job_id,
        l.started_at IS NOT NULL AS is_running,
        coalesce(extract(EPOCH FROM now() - l.started_at), 0)::double precision AS running_s
    FROM task_leases AS l
    WHERE l.worker_id = w.id
    -- More than any worker has slots; keeps this a look into the index for each worker.
    LIMIT 10000
) AS held ON true
WHERE w.id = ANY($1::bigint[])
