-- Write which capability classes a worker fits.
WITH fitted AS (
    UPDATE workers AS w
    SET class_ids = ARRAY(SELECT c.class_id FROM unnest($2::integer[]) AS c (class_id) ORDER BY 1)
    WHERE w.id = $1
),
dropped AS (
    DELETE FROM worker_classes AS wc
    WHERE wc.worker_id = $1 AND NOT wc.class_id = ANY($2::integer[])
)
INSERT INTO worker_classes (worker_id, class_id)
SELECT $1, c.class_id
FROM unnest($2::integer[]) AS c (class_id)
ON CONFLICT DO NOTHING
