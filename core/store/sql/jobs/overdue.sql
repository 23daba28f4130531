-- Return jobs past their deadline, and whether some live worker could have taken each.
SELECT
    j.id AS job_id,
    j.phase,
    NOT EXISTS (
        SELECT
        FROM tasks AS t
        LEFT JOIN task_ready AS r ON t.id = r.task_id
        LEFT JOIN task_pending AS p ON t.id = p.task_id
        WHERE
            t.job_id = j.id
            AND (r.task_id IS NOT NULL OR p.task_id IS NOT NULL)
            AND NOT EXISTS (
                SELECT
                FROM worker_classes AS wc
                INNER JOIN workers AS w ON wc.worker_id = w.id
                WHERE wc.class_id = t.class_id AND w.lost_at IS NULL
            )
    ) AS has_fitting_workers
FROM jobs AS j
WHERE j.ended_at IS NULL AND j.saving_at IS NULL AND j.expires_at < now()
ORDER BY j.expires_at
LIMIT $1
