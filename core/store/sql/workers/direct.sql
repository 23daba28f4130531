-- Ask a worker to drain or pause, or to go on.
WITH worker AS (
    UPDATE workers SET directive = $2 WHERE id = $1 RETURNING id
),
written AS (
    INSERT INTO events (kind, worker_id, actor, detail)
    SELECT 'worker.directed', worker.id, $3, jsonb_build_object('directive', $2::text)
    FROM worker
)
SELECT worker.id FROM worker
