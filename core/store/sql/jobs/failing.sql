-- Return running jobs whose scheme cancels siblings and that have a failed task and open ones.
SELECT DISTINCT j.id AS job_id
FROM jobs AS j
INNER JOIN projects AS p ON j.project_id = p.id
INNER JOIN schemes AS s ON p.scheme_id = s.id
-- A job's preparation is its first task.
INNER JOIN tasks AS t ON j.id = t.job_id AND j.prepare_task_id <= t.id
INNER JOIN task_outcomes AS o ON t.id = o.task_id
WHERE
    j.phase = 'running'
    AND j.open_tasks > 0
    AND s.cancel_siblings
    AND s.fail_on = 'any_task'
    AND t.kind = 'engine'
    AND o.outcome <> 'succeeded'
LIMIT $1
