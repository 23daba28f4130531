-- Add an organisation; no row: its name is taken.
INSERT INTO organizations (org_sid, name)
VALUES ($1, $2)
ON CONFLICT (org_sid) DO NOTHING
RETURNING id, org_sid, name, created_at
