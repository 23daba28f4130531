-- One page of tokens, newest first, and how many all pages hold.
WITH found AS (
    SELECT t.id, t.kind, t.name, t.role, o.org_sid, t.is_single_use,
           t.created_at, t.expires_at, t.used_at, t.revoked_at
    FROM tokens t
    LEFT JOIN organizations o ON o.id = t.org_id
    WHERE ($1::bigint IS NULL OR t.org_id = $1)
      AND ($2::text IS NULL OR t.kind = $2)
)
SELECT (SELECT count(*) FROM found) AS total, page.*
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (SELECT * FROM found ORDER BY id DESC LIMIT $3 OFFSET $4) AS page ON true
ORDER BY page.id DESC
