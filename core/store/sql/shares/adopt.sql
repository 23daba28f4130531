-- Count what came into the queue before its limit was set.
INSERT INTO task_grants (task_id, project_id, org_id, engine)
SELECT
    held.task_id,
    p.id,
    o.id,
    c.engine
FROM (
    SELECT r.task_id, r.project_id, r.class_id FROM task_ready AS r
    UNION ALL
    SELECT l.task_id, l.project_id, l.class_id FROM task_leases AS l
) AS held
INNER JOIN capability_classes AS c ON held.class_id = c.id
INNER JOIN projects AS p ON held.project_id = p.id
INNER JOIN repos AS r ON p.repo_id = r.id
INNER JOIN teams AS t ON r.team_id = t.id
INNER JOIN organizations AS o ON t.org_id = o.id
LEFT JOIN engine_limits AS e ON c.engine = e.engine
WHERE p.max_running IS NOT NULL OR o.max_running IS NOT NULL OR e.max_running IS NOT NULL
ON CONFLICT (task_id) DO NOTHING
