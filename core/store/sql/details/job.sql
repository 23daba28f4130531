-- One job of a project with its scan, its project and the moment the answer is of.
SELECT
    j.id,
    s.id AS scan_id,
    j.state,
    j.result_code,
    j.result_msg,
    j.is_incremental,
    j.is_forced,
    j.created_at,
    j.started_at,
    j.ended_at,
    j.expires_at,
    j.task_num,
    j.open_tasks,
    j.remarks,
    j.remarked_by,
    j.created_from,
    j.creator,
    p.id AS project_id,
    p.branch,
    p.repo_id,
    p.scheme_id,
    r.scm_url,
    s.scan_type,
    s.full_reason,
    s.revision,
    s.base_revision,
    s.base_scan_id,
    s.engines,
    s.code_line_num,
    s.comment_line_num,
    s.blank_line_num,
    s.total_line_num,
    now() AS as_of
FROM jobs j
JOIN scans s ON s.job_id = j.id
JOIN projects p ON p.id = j.project_id
JOIN repos r ON r.id = p.repo_id
WHERE j.id = $1 AND j.project_id = $2
