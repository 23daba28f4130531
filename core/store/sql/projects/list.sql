-- One page of a repository's projects, and how many all pages hold.
WITH found AS (
    SELECT p.id, p.branch, p.scan_path, p.status, p.created_from, p.creator, p.created_at,
       p.weight, p.max_running,
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
    WHERE p.repo_id = $1
      AND ($2::text IS NULL OR p.branch = $2)
      AND ($3::bigint IS NULL OR p.scheme_id = $3)
      AND ($4::smallint IS NULL OR p.status = $4)
)
SELECT (SELECT count(*) FROM found) AS total, page.*
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (SELECT * FROM found ORDER BY id DESC LIMIT $5 OFFSET $6) AS page ON true
ORDER BY page.id DESC
