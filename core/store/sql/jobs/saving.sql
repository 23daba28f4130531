-- Return jobs that are being saved: by a scheduler that is at it, or by one that died.
SELECT
    j.id AS job_id,
    c.id AS scan_id
FROM jobs AS j
INNER JOIN scans AS c ON j.id = c.job_id
WHERE j.phase = 'saving'
ORDER BY j.id
LIMIT $1
