-- The project of a job, where the job belongs to the organisation (null: any).
SELECT j.project_id
FROM jobs j
JOIN projects p ON p.id = j.project_id
JOIN repos r ON r.id = p.repo_id
JOIN teams t ON t.id = r.team_id
WHERE j.id = $1 AND ($2::bigint IS NULL OR t.org_id = $2)
