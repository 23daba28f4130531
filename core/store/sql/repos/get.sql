-- A repository the caller sees.
SELECT r.id, r.team_id, t.org_id, r.name, r.scm_url, r.scm_type
FROM repos r
JOIN teams t ON t.id = r.team_id
JOIN organizations o ON o.id = t.org_id
WHERE o.org_sid = $1 AND t.name = $2 AND r.id = $3 AND ($4::bigint IS NULL OR o.id = $4)
