-- After a crash of the database (beats are not logged) every worker counts as seen at its start.
INSERT INTO worker_beats (worker_id, seen_at)
SELECT w.id, greatest(pg_postmaster_start_time(), w.registered_at)
FROM workers AS w
WHERE
    -- Nearly always none: looking is cheaper than being refused.
    NOT EXISTS (SELECT FROM worker_beats AS b WHERE b.worker_id = w.id)
    AND (
        w.lost_at IS NULL
        -- or back, and at work before its first beat
        OR EXISTS (SELECT FROM task_leases AS l WHERE l.worker_id = w.id)
    )
ON CONFLICT (worker_id) DO NOTHING
