-- One page of an organisation's teams, and how many all pages hold.
WITH found AS (
    SELECT t.id, t.org_id, o.org_sid, t.name, t.display_name, t.created_at
    FROM teams t
    JOIN organizations o ON o.id = t.org_id
    WHERE t.org_id = $1
)
SELECT (SELECT count(*) FROM found) AS total, page.*
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (SELECT * FROM found ORDER BY id DESC LIMIT $2 OFFSET $3) AS page ON true
ORDER BY page.id DESC
