-- Add a team; no row: its name is taken.
INSERT INTO teams (org_id, name, display_name)
VALUES ($1, $2, $3)
ON CONFLICT (org_id, name) DO NOTHING
RETURNING id
