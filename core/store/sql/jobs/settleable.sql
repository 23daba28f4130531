-- Return running jobs whose tasks have all closed, with what decides about their success: one of
-- each project before anybody's second.
WITH found AS MATERIALIZED (
    SELECT
        j.id,
        j.project_id,
        row_number() OVER (PARTITION BY j.project_id ORDER BY j.id) AS turn
    FROM jobs AS j
    WHERE j.phase = 'running' AND j.open_tasks = 0
),
first AS MATERIALIZED (
    SELECT found.*
    FROM found
    ORDER BY found.turn, found.id
    LIMIT $1
)
SELECT
    first.id AS job_id,
    first.project_id,
    c.id AS scan_id,
    s.fail_on,
    s.partial_fails
FROM first
INNER JOIN scans AS c ON first.id = c.job_id
INNER JOIN projects AS p ON first.project_id = p.id
INNER JOIN schemes AS s ON p.scheme_id = s.id
ORDER BY first.turn, first.id
