-- Add an organisation; no row: its name is taken.
INSERT INTO organizations (org_sid, name, weight, max_running)
VALUES ($1, $2, $3, $4)
ON CONFLICT (org_sid) DO NOTHING
RETURNING id, org_sid, name, created_at, weight, max_running
