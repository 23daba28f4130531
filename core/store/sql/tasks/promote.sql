-- Make pending tasks ready whose time has come.
WITH due AS (
    DELETE FROM task_pending AS p
    WHERE p.task_id IN (
        SELECT d.task_id
        FROM task_pending AS d
        WHERE d.not_before <= now()
        ORDER BY d.not_before
        LIMIT $1
        FOR UPDATE SKIP LOCKED
    )
    RETURNING p.task_id, p.job_id, p.class_id, p.sort_key, p.failures, p.resets
)
INSERT INTO task_ready (task_id, job_id, class_id, sort_key, failures, resets)
SELECT due.task_id, due.job_id, due.class_id, due.sort_key, due.failures, due.resets
FROM due
RETURNING task_id
