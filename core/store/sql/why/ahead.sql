-- Return the oldest open job before a job of its project, and how many there are, up to a bound.
SELECT
    ahead.job_id,
    s.id AS scan_id,
    ahead.jobs_ahead
FROM (
    SELECT
        min(earlier.id) AS job_id,
        count(*) AS jobs_ahead
    FROM (
        SELECT j.id
        FROM jobs AS j
        WHERE j.project_id = $1 AND j.id < $2 AND j.ended_at IS NULL
        ORDER BY j.id
        LIMIT $3
    ) AS earlier
) AS ahead
INNER JOIN scans AS s ON ahead.job_id = s.job_id
