-- Return why attempts of a worker are over.
SELECT
    a.attempt_id,
    a.reason
FROM task_attempts AS a
WHERE a.attempt_id = ANY($2::bigint[]) AND a.worker_id = $1
