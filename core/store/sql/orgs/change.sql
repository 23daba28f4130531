-- Change an organisation's name.
UPDATE organizations
SET name = coalesce($2, name)
WHERE id = $1
RETURNING id, org_sid, name, created_at
