-- Return the scans of the open jobs of a project: why a create is refused.
SELECT s.id AS scan_id
FROM jobs AS j
INNER JOIN scans AS s ON j.id = s.job_id
WHERE j.project_id = $1 AND j.ended_at IS NULL
ORDER BY j.id DESC
LIMIT 100
