-- The attempt of a task with a number, held or ended; a number may have been given again after
-- an offer nobody started, then the latest.
SELECT attempt_id FROM (
    SELECT attempt_id FROM task_leases WHERE task_id = $1 AND number = $2
    UNION ALL
    SELECT attempt_id FROM task_attempts WHERE task_id = $1 AND number = $2
) numbered
ORDER BY attempt_id DESC
LIMIT 1
