-- Return how the engine tasks of a job ended.
SELECT
    t.id AS task_id,
    t.engine,
    o.outcome,
    o.reason,
    o.result_code,
    o.result_msg,
    o.attempt_id,
    o.result
FROM tasks AS t
INNER JOIN task_outcomes AS o ON t.id = o.task_id
WHERE t.job_id = $1 AND t.kind = 'engine'
ORDER BY t.id
