-- An organisation the caller sees.
SELECT id, org_sid, name, created_at, weight, max_running
FROM organizations
WHERE org_sid = $1 AND ($2::bigint IS NULL OR id = $2)
