-- Return running jobs whose tasks have all closed, with what decides about their success.
SELECT
    j.id AS job_id,
    j.project_id,
    c.id AS scan_id,
    s.fail_on,
    s.partial_fails
FROM jobs AS j
INNER JOIN scans AS c ON j.id = c.job_id
INNER JOIN projects AS p ON j.project_id = p.id
INNER JOIN schemes AS s ON p.scheme_id = s.id
WHERE j.phase = 'running' AND j.open_tasks = 0
ORDER BY j.id
LIMIT $1
