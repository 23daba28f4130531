-- Return the newest unforced job of a project that is not admitted yet and asks for the same.
SELECT
    j.id AS job_id,
    s.id AS scan_id
FROM jobs AS j
INNER JOIN scans AS s ON j.id = s.job_id
WHERE
    j.project_id = $1
    AND j.phase = 'waiting'
    AND j.ended_at IS NULL
    AND NOT j.is_forced
    AND j.is_incremental = $2
    AND j.revision IS NOT DISTINCT FROM $3
ORDER BY j.id DESC
LIMIT 1
