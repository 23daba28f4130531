-- A scheme of a repository.
SELECT id, repo_id, name, description, languages, tag, is_default, status, engines, inclusion,
       exclusion, job_runtime_limit_minutes, active_job_policy, fail_on, partial_fails,
       cancel_siblings, allow_repo_config, priority, created_at, modified_at
FROM schemes
WHERE repo_id = $1 AND id = $2
