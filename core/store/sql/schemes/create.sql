-- Add a scheme; no row: the repository has one of that name.
INSERT INTO schemes (
    repo_id, name, description, languages, tag, is_default, status, engines, inclusion, exclusion,
    job_runtime_limit_minutes, active_job_policy, fail_on, partial_fails, cancel_siblings,
    allow_repo_config, priority
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17)
ON CONFLICT (repo_id, name) DO NOTHING
RETURNING id
