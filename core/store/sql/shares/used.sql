-- Return what is limited or counted: the limit, null for none, and how many tasks are counted.
SELECT
    'limit_organization' AS reason,
    o.id,
    NULL AS engine,
    o.max_running,
    coalesce(g.tasks, 0) AS used
FROM organizations AS o
LEFT JOIN (
    SELECT
        org_id,
        count(*) AS tasks
    FROM task_grants
    GROUP BY org_id
) AS g ON o.id = g.org_id
WHERE o.max_running IS NOT NULL OR g.tasks > 0
UNION ALL
SELECT
    'limit_project',
    p.id,
    NULL,
    p.max_running,
    coalesce(g.tasks, 0)
FROM projects AS p
LEFT JOIN (
    SELECT
        project_id,
        count(*) AS tasks
    FROM task_grants
    GROUP BY project_id
) AS g ON p.id = g.project_id
WHERE p.max_running IS NOT NULL OR g.tasks > 0
UNION ALL
SELECT
    'limit_engine',
    NULL,
    e.engine,
    e.max_running,
    coalesce(g.tasks, 0)
FROM engine_limits AS e
LEFT JOIN (
    SELECT
        engine,
        count(*) AS tasks
    FROM task_grants
    GROUP BY engine
) AS g ON e.engine = g.engine
