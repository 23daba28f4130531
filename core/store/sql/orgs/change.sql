-- Change what is given of an organisation: its name, its weight, its limit.
UPDATE organizations
SET
    name = coalesce($2, name),
    weight = coalesce($3, weight),
    max_running = CASE WHEN $4 THEN $5 ELSE max_running END
WHERE id = $1
RETURNING id, org_sid, name, created_at, weight, max_running
