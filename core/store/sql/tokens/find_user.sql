-- The owners of user tokens that are good now.
SELECT token_hash, id, name, role, org_id
FROM tokens
WHERE token_hash = ANY($1::bytea[])
  AND kind = 'user'
  AND revoked_at IS NULL
  AND (expires_at IS NULL OR expires_at > now())
