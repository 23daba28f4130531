-- Say of the first tasks of each project and engine which limit it is that they wait for.
WITH RECURSIVE stream AS (
    (
        SELECT
            p.project_id,
            p.class_id
        FROM task_pending AS p
        WHERE p.reason <> 'retry'
        ORDER BY p.project_id, p.class_id
        LIMIT 1
    )
    UNION ALL
    SELECT
        next.project_id,
        next.class_id
    FROM stream
    CROSS JOIN LATERAL (
        SELECT
            p.project_id,
            p.class_id
        FROM task_pending AS p
        WHERE
            p.reason <> 'retry'
            AND (p.project_id, p.class_id) > (stream.project_id, stream.class_id)
        ORDER BY p.project_id, p.class_id
        LIMIT 1
    ) AS next
),
full_up AS MATERIALIZED (
    SELECT
        stream.project_id,
        stream.class_id,
        CASE
            WHEN p.max_running <= (
                SELECT count(*) FROM task_grants AS g WHERE g.project_id = p.id
            ) THEN 'limit_project'
            WHEN o.max_running <= (
                SELECT count(*) FROM task_grants AS g WHERE g.org_id = o.id
            ) THEN 'limit_organization'
            WHEN e.max_running <= (
                SELECT count(*) FROM task_grants AS g WHERE g.engine = e.engine
            ) THEN 'limit_engine'
        END AS reason
    FROM stream
    INNER JOIN capability_classes AS c ON stream.class_id = c.id
    INNER JOIN projects AS p ON stream.project_id = p.id
    INNER JOIN repos AS r ON p.repo_id = r.id
    INNER JOIN teams AS t ON r.team_id = t.id
    INNER JOIN organizations AS o ON t.org_id = o.id
    LEFT JOIN engine_limits AS e ON c.engine = e.engine
    LIMIT $1
),
wrong AS MATERIALIZED (
    SELECT
        first.task_id,
        full_up.reason
    FROM full_up
    CROSS JOIN LATERAL (
        SELECT
            p.task_id,
            p.reason
        FROM task_pending AS p
        WHERE
            p.reason <> 'retry'
            AND p.project_id = full_up.project_id
            AND p.class_id = full_up.class_id
        ORDER BY p.sort_key, p.task_id
        LIMIT $2
    ) AS first
    WHERE full_up.reason IS NOT NULL AND first.reason <> full_up.reason
)
UPDATE task_pending AS p
SET reason = wrong.reason
FROM wrong
WHERE p.task_id = wrong.task_id AND p.reason <> 'retry'
