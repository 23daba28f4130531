-- The owner of a user token that is good now.
SELECT id, name, role, org_id
FROM tokens
WHERE token_hash = $1
  AND kind = 'user'
  AND revoked_at IS NULL
  AND (expires_at IS NULL OR expires_at > now())
