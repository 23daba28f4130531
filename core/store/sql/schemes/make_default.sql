-- Make the default scheme where there is none; no row: there is one, or its name is taken.
INSERT INTO schemes (repo_id, name, description, is_default)
VALUES ($1, $2, $3, true)
ON CONFLICT DO NOTHING
RETURNING id
