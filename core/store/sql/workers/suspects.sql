-- Return the attempts of tasks that failed on other workers than the one that now succeeded.
SELECT
    a.task_id,
    a.attempt_id
FROM unnest($1::bigint[], $2::bigint[]) AS done (task_id, worker_id)
INNER JOIN task_attempts AS a ON done.task_id = a.task_id AND done.worker_id <> a.worker_id
WHERE a.reason = ANY($3::text[])
