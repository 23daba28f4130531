-- Put tasks that waited for a limit into the queue, each noted as granted.
WITH taken AS (
    DELETE FROM task_pending AS p
    WHERE p.task_id = ANY($1::bigint[]) AND p.reason <> 'retry'
    RETURNING p.*
),
granted AS (
    INSERT INTO task_grants (task_id, project_id, org_id, engine)
    SELECT
        taken.task_id,
        taken.project_id,
        t.org_id,
        c.engine
    FROM taken
    INNER JOIN capability_classes AS c ON taken.class_id = c.id
    INNER JOIN projects AS p ON taken.project_id = p.id
    INNER JOIN repos AS r ON p.repo_id = r.id
    INNER JOIN teams AS t ON r.team_id = t.id
    -- Retried so soon that its last grant has not been dropped yet.
    ON CONFLICT (task_id) DO NOTHING
)
INSERT INTO task_ready (
    task_id, job_id, project_id, class_id, sort_key, failures, resets, attempts,
    preferred_worker_id
)
SELECT
    taken.task_id, taken.job_id, taken.project_id, taken.class_id, taken.sort_key,
    taken.failures, taken.resets, taken.attempts, taken.preferred_worker_id
FROM taken
RETURNING task_id
