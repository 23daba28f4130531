-- Write which workers fit a new capability class.
WITH fitted AS (
    UPDATE workers AS w
    -- A new class has the highest id: the array stays sorted.
    SET class_ids = w.class_ids || $1::integer
    WHERE w.id = ANY($2::bigint[]) AND NOT w.class_ids @> ARRAY[$1::integer]
)
INSERT INTO worker_classes (worker_id, class_id)
SELECT w.worker_id, $1
FROM unnest($2::bigint[]) AS w (worker_id)
ON CONFLICT DO NOTHING
