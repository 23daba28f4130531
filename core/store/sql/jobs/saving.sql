-- Return jobs that are being saved, by a scheduler that is at it or by one that died: one of each
-- project before anybody's second.
WITH first AS MATERIALIZED (
    SELECT
        j.id,
        row_number() OVER (PARTITION BY j.project_id ORDER BY j.id) AS turn
    FROM jobs AS j
    WHERE j.phase = 'saving'
    ORDER BY turn, j.id
    LIMIT $1
)
SELECT
    first.id AS job_id,
    c.id AS scan_id
FROM first
INNER JOIN scans AS c ON first.id = c.job_id
ORDER BY first.turn, first.id
