-- Return jobs whose preparation has ended, with its result and the worker that has the sources.
SELECT
    j.id AS job_id,
    o.outcome,
    o.result_code,
    o.result_msg,
    o.result,
    a.worker_id
FROM jobs AS j
INNER JOIN task_outcomes AS o ON j.prepare_task_id = o.task_id
LEFT JOIN task_attempts AS a ON o.task_id = a.task_id AND o.attempt_id = a.attempt_id
WHERE j.phase = 'preparing'
ORDER BY j.id
LIMIT $1
