-- One page of a repository's schemes, and how many all pages hold.
WITH found AS (
    SELECT id, repo_id, name, description, languages, tag, is_default, status, engines, inclusion,
       exclusion, job_runtime_limit_minutes, active_job_policy, fail_on, partial_fails,
       cancel_siblings, allow_repo_config, priority, created_at, modified_at
    FROM schemes
    WHERE repo_id = $1
      AND ($2::text IS NULL OR strpos(lower(name), lower($2)) > 0)
      AND ($3::smallint IS NULL OR status = $3)
)
SELECT (SELECT count(*) FROM found) AS total, page.*
FROM (SELECT 1) AS always
LEFT JOIN LATERAL (SELECT * FROM found ORDER BY id DESC LIMIT $4 OFFSET $5) AS page ON true
ORDER BY page.id DESC
