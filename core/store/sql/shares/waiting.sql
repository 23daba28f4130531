-- Return the first tasks of each project and engine that wait for a limit and find room.
WITH RECURSIVE stream AS (
    -- From one project and class to the next, not over all that wait.
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
of_project AS (
    SELECT
        g.project_id,
        count(*) AS tasks
    FROM task_grants AS g
    GROUP BY g.project_id
),
of_org AS (
    SELECT
        g.org_id,
        count(*) AS tasks
    FROM task_grants AS g
    GROUP BY g.org_id
),
of_engine AS (
    SELECT
        g.engine,
        count(*) AS tasks
    FROM task_grants AS g
    GROUP BY g.engine
),
roomy AS MATERIALIZED (
    SELECT
        stream.project_id,
        stream.class_id,
        o.id AS org_id,
        o.weight AS org_weight,
        p.weight,
        c.engine
    FROM stream
    INNER JOIN capability_classes AS c ON stream.class_id = c.id
    INNER JOIN projects AS p ON stream.project_id = p.id
    INNER JOIN repos AS r ON p.repo_id = r.id
    INNER JOIN teams AS t ON r.team_id = t.id
    INNER JOIN organizations AS o ON t.org_id = o.id
    LEFT JOIN engine_limits AS e ON c.engine = e.engine
    LEFT JOIN of_project ON p.id = of_project.project_id
    LEFT JOIN of_org ON o.id = of_org.org_id
    LEFT JOIN of_engine ON c.engine = of_engine.engine
    WHERE
        (p.max_running IS NULL OR coalesce(of_project.tasks, 0) < p.max_running)
        AND (o.max_running IS NULL OR coalesce(of_org.tasks, 0) < o.max_running)
        AND (e.max_running IS NULL OR coalesce(of_engine.tasks, 0) < e.max_running)
    -- Any of them, so that each has its turn where there are more than are looked at.
    ORDER BY random()
    LIMIT $1
)
SELECT
    first.task_id,
    first.sort_key,
    roomy.org_id,
    roomy.project_id,
    roomy.engine,
    roomy.org_weight,
    roomy.weight
FROM roomy
CROSS JOIN LATERAL (
    SELECT
        p.task_id,
        p.sort_key
    FROM task_pending AS p
    WHERE
        p.reason <> 'retry'
        AND p.project_id = roomy.project_id
        AND p.class_id = roomy.class_id
    ORDER BY p.sort_key, p.task_id
    LIMIT $2
) AS first
