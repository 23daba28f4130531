-- Close a job that has nothing to do: the head is the base; its line counts are the base's.
WITH job AS (
    UPDATE jobs
    SET
        phase = 'closed',
        result_code = 1,
        result_msg = $3,
        ended_at = greatest(clock_timestamp(), created_at, started_at),
        admission_token = NULL,
        admission_expires_at = NULL
    WHERE id = $1 AND phase = 'resolving' AND admission_token = $2
    RETURNING id, project_id
),
scan AS (
    UPDATE scans
    SET
        revision = base.revision,
        base_revision = base.revision,
        base_scan_id = base.id,
        config_hash = base.config_hash,
        engines = base.engines,
        code_line_num = base.code_line_num,
        comment_line_num = base.comment_line_num,
        blank_line_num = base.blank_line_num,
        total_line_num = base.total_line_num
    FROM job, scans AS base
    WHERE scans.job_id = job.id AND base.id = $4
    RETURNING
        scans.id, scans.job_id, scans.project_id, scans.revision, scans.config_hash,
        scans.engines
),
based AS (
    -- All of it: another scan may have become the base since this one was compared with it.
    UPDATE projects
    SET
        base_job_id = scan.job_id,
        base_scan_id = scan.id,
        base_revision = scan.revision,
        base_config_hash = scan.config_hash,
        base_engines = scan.engines
    FROM scan
    WHERE projects.id = scan.project_id AND projects.base_job_id < scan.job_id
),
written AS (
    INSERT INTO events (kind, project_id, job_id, detail)
    SELECT 'job.closed', job.project_id, job.id, jsonb_build_object('result_code', 1)
    FROM job
)
SELECT job.id AS job_id FROM job
