-- One page of a team's repositories, and how many all pages hold; counts only for the page.
WITH found AS (
    SELECT r.id, r.name, r.scm_url, r.scm_type, r.created_from, r.creator, r.created_at
    FROM repos r
    WHERE r.team_id = $1
      AND ($2::text IS NULL OR r.scm_url = $2)
      AND ($3::text IS NULL OR strpos(lower(r.scm_url), lower($3)) > 0
           OR strpos(lower(r.name), lower($3)) > 0)
)
SELECT (SELECT count(*) FROM found) AS total, page.*,
       p.branch_count, s.scheme_count, j.job_count, j.recent_active
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (SELECT * FROM found ORDER BY id DESC LIMIT $4 OFFSET $5) AS page ON true
CROSS JOIN LATERAL (
    SELECT count(DISTINCT branch) AS branch_count FROM projects WHERE repo_id = page.id
) AS p
CROSS JOIN LATERAL (SELECT count(*) AS scheme_count FROM schemes WHERE repo_id = page.id) AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS job_count, max(jobs.created_at) AS recent_active
    FROM jobs
    JOIN projects ON projects.id = jobs.project_id
    WHERE projects.repo_id = page.id
) AS j
ORDER BY page.id DESC
