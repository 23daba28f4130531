-- Return the open jobs of a project, newest first, with what a policy needs to decide.
SELECT
    j.id AS job_id,
    s.id AS scan_id,
    j.phase,
    j.is_forced,
    j.is_incremental,
    j.revision
FROM jobs AS j
INNER JOIN scans AS s ON j.id = s.job_id
WHERE j.project_id = $1 AND j.phase <> 'closed'
ORDER BY j.id DESC
LIMIT 100
