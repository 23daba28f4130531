-- Return the limits that count the tasks of a project, and how many tasks each counts now.
WITH place AS (
    SELECT
        p.id AS project_id,
        p.max_running AS project_limit,
        o.id AS org_id,
        o.max_running AS org_limit
    FROM projects AS p
    INNER JOIN repos AS r ON p.repo_id = r.id
    INNER JOIN teams AS t ON r.team_id = t.id
    INNER JOIN organizations AS o ON t.org_id = o.id
    WHERE p.id = $1
)
SELECT
    'limit_organization' AS reason,
    '' AS engine,
    place.org_limit AS most,
    (SELECT count(*) FROM task_grants AS g WHERE g.org_id = place.org_id) AS used
FROM place
UNION ALL
SELECT
    'limit_project',
    '',
    place.project_limit,
    (SELECT count(*) FROM task_grants AS g WHERE g.project_id = place.project_id)
FROM place
UNION ALL
SELECT
    'limit_engine',
    e.engine,
    e.max_running,
    (SELECT count(*) FROM task_grants AS g WHERE g.engine = e.engine)
FROM engine_limits AS e
WHERE e.engine = ANY($2::text[])
