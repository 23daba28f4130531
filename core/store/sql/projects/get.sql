-- A project the caller sees, with its repository and scheme.
SELECT p.id, p.branch, p.scan_path, p.status, p.created_from, p.creator, p.created_at,
       r.id AS repo_id, r.name AS repo_name, r.scm_url, r.scm_type,
       s.id AS scheme_id, s.name AS scheme_name, s.status AS scheme_status,
       s.is_default AS scheme_is_default, s.languages AS scheme_languages,
       s.active_job_policy,
       t.org_id, o.org_sid, t.name AS team_name, t.display_name AS team_display_name
FROM projects p
JOIN schemes s ON s.id = p.scheme_id
JOIN repos r ON r.id = p.repo_id
JOIN teams t ON t.id = r.team_id
JOIN organizations o ON o.id = t.org_id
WHERE o.org_sid = $1 AND t.name = $2 AND r.id = $3 AND p.id = $4
  AND ($5::bigint IS NULL OR o.id = $5)
