-- Delete workers that were lost long ago, with their tokens and classes; return how many.
WITH gone AS MATERIALIZED (
    SELECT w.id
    FROM workers AS w
    WHERE
        w.lost_at < now() - $1::interval
        AND NOT EXISTS (SELECT FROM task_leases AS l WHERE l.worker_id = w.id)
    LIMIT 1000
    FOR UPDATE SKIP LOCKED
),
token AS (
    DELETE FROM worker_tokens AS t
    USING gone
    WHERE t.worker_id = gone.id
),
class AS (
    DELETE FROM worker_classes AS c
    USING gone
    WHERE c.worker_id = gone.id
),
beat AS (
    DELETE FROM worker_beats AS b
    USING gone
    WHERE b.worker_id = gone.id
),
deleted AS (
    DELETE FROM workers AS w
    USING gone
    WHERE w.id = gone.id
    RETURNING w.id
)
SELECT count(*) FROM deleted
