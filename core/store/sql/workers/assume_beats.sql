-- Where beats are gone, every worker counts as seen now, at the first look.
-- They are not logged: a crash of the database loses them, and a promoted standby never had them,
-- though it may have run for months. So neither the server's start nor the registration says when.
INSERT INTO worker_beats (worker_id, seen_at)
SELECT
    w.id,
    clock_timestamp()
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
