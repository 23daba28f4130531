-- Add an admin token where none is good; its statement comes after the lock, to see others' work.
INSERT INTO tokens (kind, name, role, token_hash)
SELECT 'user', $1, 'admin', $2
WHERE NOT EXISTS (
    SELECT FROM tokens
    WHERE kind = 'user' AND role = 'admin' AND org_id IS NULL
      AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
)
RETURNING id
