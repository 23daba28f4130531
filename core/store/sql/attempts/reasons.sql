-- Return why attempts are over, each of the worker that asks.
SELECT
    a.attempt_id,
    a.reason
FROM unnest($1::bigint[], $2::bigint[]) AS asked (worker_id, attempt_id)
INNER JOIN task_attempts AS a
    ON asked.attempt_id = a.attempt_id AND asked.worker_id = a.worker_id
