-- A repository with what its page counts.
SELECT r.id, r.name, r.scm_url, r.scm_type, r.created_from, r.creator, r.created_at,
       p.branch_count, s.scheme_count, j.job_count, j.recent_active
FROM repos r
CROSS JOIN LATERAL (
    SELECT count(DISTINCT branch) AS branch_count FROM projects WHERE repo_id = r.id
) AS p
CROSS JOIN LATERAL (SELECT count(*) AS scheme_count FROM schemes WHERE repo_id = r.id) AS s
CROSS JOIN LATERAL (
    SELECT count(*) AS job_count, max(jobs.created_at) AS recent_active
    FROM jobs
    JOIN projects ON projects.id = jobs.project_id
    WHERE projects.repo_id = r.id
) AS j
WHERE r.id = $1
