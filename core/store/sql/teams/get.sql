-- A team the caller sees.
SELECT t.id, t.org_id, o.org_sid, t.name, t.display_name, t.created_at
FROM teams t
JOIN organizations o ON o.id = t.org_id
WHERE o.org_sid = $1 AND t.name = $2 AND ($3::bigint IS NULL OR o.id = $3)
