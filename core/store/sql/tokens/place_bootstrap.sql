-- Make the token set by hand an admin's; one that was revoked stays revoked.
INSERT INTO tokens (kind, name, role, token_hash)
VALUES ('user', $1, 'admin', $2)
ON CONFLICT (token_hash) DO NOTHING
RETURNING id
