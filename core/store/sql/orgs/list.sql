-- One page of the organisations the caller sees, and how many all pages hold.
WITH found AS (
    SELECT id, org_sid, name, created_at, weight, max_running
    FROM organizations
    WHERE $1::bigint IS NULL OR id = $1
)
SELECT (SELECT count(*) FROM found) AS total, page.*
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (SELECT * FROM found ORDER BY id DESC LIMIT $2 OFFSET $3) AS page ON true
ORDER BY page.id DESC
