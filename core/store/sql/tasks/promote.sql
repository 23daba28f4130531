-- Make tasks ready whose time to be tried again has come; limited ones wait for their limit then.
WITH due AS MATERIALIZED (
    SELECT
        d.task_id,
        CASE
            WHEN p.max_running IS NOT NULL THEN 'limit_project'
            WHEN o.max_running IS NOT NULL THEN 'limit_organization'
            WHEN e.engine IS NOT NULL THEN 'limit_engine'
        END AS waits_for
    FROM task_pending AS d
    LEFT JOIN capability_classes AS c ON d.class_id = c.id
    LEFT JOIN engine_limits AS e ON c.engine = e.engine
    LEFT JOIN projects AS p ON d.project_id = p.id
    LEFT JOIN repos AS r ON p.repo_id = r.id
    LEFT JOIN teams AS t ON r.team_id = t.id
    LEFT JOIN organizations AS o ON t.org_id = o.id
    WHERE d.reason = 'retry' AND d.not_before <= now()
    ORDER BY d.not_before
    LIMIT $1
    FOR UPDATE OF d SKIP LOCKED
),
held AS (
    UPDATE task_pending AS p
    SET reason = due.waits_for
    FROM due
    WHERE p.task_id = due.task_id AND due.waits_for IS NOT NULL
),
moved AS (
    DELETE FROM task_pending AS p
    USING due
    WHERE p.task_id = due.task_id AND due.waits_for IS NULL
    RETURNING
        p.task_id, p.job_id, p.class_id, p.sort_key, p.failures, p.resets, p.project_id,
        p.attempts
)
INSERT INTO task_ready (
    task_id, job_id, class_id, sort_key, failures, resets, project_id, attempts
)
SELECT
    moved.task_id, moved.job_id, moved.class_id, moved.sort_key, moved.failures, moved.resets,
    moved.project_id, moved.attempts
FROM moved
RETURNING task_id
