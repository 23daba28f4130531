-- Drop the grants of tasks that are neither in the queue nor on a worker any more.
DELETE FROM task_grants AS g
WHERE
    NOT EXISTS (SELECT FROM task_ready AS r WHERE r.task_id = g.task_id)
    AND NOT EXISTS (SELECT FROM task_leases AS l WHERE l.task_id = g.task_id)
