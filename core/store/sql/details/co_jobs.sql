-- The other open jobs of a project, oldest first.
SELECT j.id, s.id AS scan_id, j.state
FROM jobs j
JOIN scans s ON s.job_id = j.id
WHERE j.project_id = $1 AND j.id <> $2 AND j.phase <> 'closed'
ORDER BY j.id
LIMIT 1000
