-- Change what is given of a project: its status, its weight, its limit.
UPDATE projects
SET
    status = coalesce($2, status),
    weight = coalesce($3, weight),
    max_running = CASE WHEN $4 THEN $5 ELSE max_running END
WHERE id = $1
RETURNING id
