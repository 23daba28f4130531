-- A task's accepted attempt and its last one, where the task belongs to the organisation
-- (null: any).
SELECT
    t.id AS task_id,
    t.job_id,
    o.attempt_id AS accepted_attempt_id,
    coalesce(l.attempt_id, tried.attempt_id) AS last_attempt_id
FROM tasks t
JOIN jobs j ON j.id = t.job_id
JOIN projects p ON p.id = j.project_id
JOIN repos r ON r.id = p.repo_id
JOIN teams team ON team.id = r.team_id
LEFT JOIN task_outcomes o ON o.task_id = t.id
LEFT JOIN task_leases l ON l.task_id = t.id
LEFT JOIN LATERAL (
    SELECT a.attempt_id
    FROM task_attempts a
    WHERE a.task_id = t.id
    ORDER BY a.number DESC, a.attempt_id DESC
    LIMIT 1
) tried ON true
WHERE t.id = $1 AND ($2::bigint IS NULL OR team.org_id = $2)
