-- Projects that their callers see, each with its repository and scheme.
SELECT asked.n,
       p.id, p.branch, p.scan_path, p.status, p.created_from, p.creator, p.created_at,
       p.weight, p.max_running,
       r.id AS repo_id, r.name AS repo_name, r.scm_url, r.scm_type,
       s.id AS scheme_id, s.name AS scheme_name, s.status AS scheme_status,
       s.is_default AS scheme_is_default, s.languages AS scheme_languages,
       s.active_job_policy,
       t.org_id, o.org_sid, t.name AS team_name, t.display_name AS team_display_name
FROM unnest($1::text[], $2::text[], $3::bigint[], $4::bigint[], $5::bigint[])
  WITH ORDINALITY AS asked (org_sid, team_name, repo_id, project_id, scope, n)
JOIN projects p ON p.id = asked.project_id
JOIN schemes s ON s.id = p.scheme_id
JOIN repos r ON r.id = p.repo_id
JOIN teams t ON t.id = r.team_id
JOIN organizations o ON o.id = t.org_id
WHERE o.org_sid = asked.org_sid AND t.name = asked.team_name AND r.id = asked.repo_id
  AND (asked.scope IS NULL OR o.id = asked.scope)
