-- Take for lost the workers without a beat for longer than a lease; their beat rows stay locked.
WITH late AS MATERIALIZED (
    SELECT b.worker_id
    FROM worker_beats AS b
    INNER JOIN workers AS w ON b.worker_id = w.id
    WHERE
        b.seen_at < clock_timestamp() - make_interval(secs => $1)
        AND (
            w.lost_at IS NULL
            OR EXISTS (SELECT FROM task_leases AS l WHERE l.worker_id = w.id)
        )
    ORDER BY b.worker_id
    LIMIT $2
    FOR UPDATE OF b SKIP LOCKED
),
lost AS (
    UPDATE workers AS w
    SET lost_at = now()
    FROM late
    WHERE w.id = late.worker_id AND w.lost_at IS NULL
    RETURNING w.id
),
written AS (
    INSERT INTO events (kind, worker_id)
    SELECT 'worker.lost', lost.id
    FROM lost
)
SELECT late.worker_id FROM late
