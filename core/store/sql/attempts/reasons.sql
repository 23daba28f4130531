-- Return why attempts are over, each of the worker that asks.
SELECT
    a.attempt_id,
    a.reason
FROM unnest($1::bigint[], $2::bigint[]) AS asked (worker_id, attempt_id)
CROSS JOIN LATERAL (
    -- One by one: statistics never make it a walk through the history.
    SELECT
        past.attempt_id,
        past.worker_id,
        past.reason
    FROM task_attempts AS past
    WHERE past.attempt_id = asked.attempt_id
    LIMIT 1
) AS a
WHERE a.worker_id = asked.worker_id
