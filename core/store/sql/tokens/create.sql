-- Add a token.
INSERT INTO tokens (kind, name, role, org_id, token_hash, is_single_use, expires_at)
VALUES ($1, $2, $3, $4, $5, $6, now() + make_interval(secs => $7))
RETURNING id
