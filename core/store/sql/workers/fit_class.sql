-- Write which workers fit a new capability class.
INSERT INTO worker_classes (worker_id, class_id)
SELECT w.worker_id, $1
FROM unnest($2::bigint[]) AS w (worker_id)
ON CONFLICT DO NOTHING
