-- Register a repository; no row: the team has it.
INSERT INTO repos (team_id, name, scm_url, scm_auth, created_from, creator)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (team_id, scm_url) DO NOTHING
RETURNING id
