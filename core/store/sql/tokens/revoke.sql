-- Revoke a token; a second time changes nothing.
UPDATE tokens
SET revoked_at = coalesce(revoked_at, now())
WHERE id = $1 AND ($2::bigint IS NULL OR org_id = $2)
RETURNING id
