-- Close a saved job with success, write its line counts, and make it the project's base.
WITH job AS (
    UPDATE jobs
    SET phase = 'closed', result_code = 0, result_msg = 'success', ended_at = greatest(clock_timestamp(), created_at, started_at)
    WHERE id = $1 AND phase = 'saving'
    RETURNING id, project_id
),
scan AS (
    UPDATE scans
    SET
        code_line_num = $2,
        comment_line_num = $3,
        blank_line_num = $4,
        total_line_num = $5,
        engines = $6
    FROM job
    WHERE scans.job_id = job.id
    RETURNING scans.id, scans.job_id, scans.project_id, scans.revision, scans.config_hash
),
based AS (
    UPDATE projects
    SET
        base_job_id = scan.job_id,
        base_scan_id = scan.id,
        base_revision = scan.revision,
        base_config_hash = scan.config_hash,
        base_engines = $6
    FROM scan
    WHERE
        projects.id = scan.project_id
        AND (projects.base_job_id IS NULL OR projects.base_job_id < scan.job_id)
),
written AS (
    INSERT INTO events (kind, project_id, job_id, detail)
    SELECT 'job.closed', job.project_id, job.id, jsonb_build_object('result_code', 0)
    FROM job
)
SELECT job.id AS job_id FROM job
