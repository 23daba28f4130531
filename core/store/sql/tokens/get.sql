-- One token.
SELECT t.id, t.kind, t.name, t.role, o.org_sid, t.is_single_use,
       t.created_at, t.expires_at, t.used_at, t.revoked_at
FROM tokens t
LEFT JOIN organizations o ON o.id = t.org_id
WHERE t.id = $1 AND ($2::bigint IS NULL OR t.org_id = $2)
