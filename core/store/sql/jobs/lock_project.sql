-- Lock a project against other creates, so that ids of its jobs are in the order of their commits.
SELECT
    p.id,
    p.status AS project_status,
    p.branch,
    s.status AS scheme_status
FROM projects AS p
INNER JOIN schemes AS s ON p.scheme_id = s.id
WHERE p.id = $1
FOR NO KEY UPDATE OF p
