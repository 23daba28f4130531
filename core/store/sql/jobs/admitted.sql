-- Return what resolving an admitted job needs: its arguments, repository, scheme and base.
SELECT
    j.id AS job_id,
    j.project_id,
    j.is_incremental,
    j.revision AS asked_revision,
    j.priority,
    j.phase,
    j.created_at,
    j.first_key,
    j.key_step,
    p.branch,
    p.scan_path,
    p.base_job_id,
    p.base_scan_id,
    p.base_revision,
    p.base_config_hash,
    p.base_engines,
    r.id AS repo_id,
    r.scm_url,
    r.scm_auth,
    s.languages,
    s.engines,
    s.inclusion,
    s.exclusion,
    s.tag,
    s.fail_on,
    s.partial_fails,
    s.cancel_siblings,
    s.allow_repo_config,
    c.id AS scan_id,
    c.scan_type,
    c.full_reason,
    c.revision,
    c.base_revision AS scan_base_revision
FROM jobs AS j
INNER JOIN scans AS c ON j.id = c.job_id
INNER JOIN projects AS p ON j.project_id = p.id
INNER JOIN schemes AS s ON p.scheme_id = s.id
INNER JOIN repos AS r ON p.repo_id = r.id
WHERE j.id = ANY($1::bigint[])
ORDER BY j.id
