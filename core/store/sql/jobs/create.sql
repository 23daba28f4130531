-- Write a job, its scan and the event; the project's row is locked before the id is taken.
WITH project AS MATERIALIZED (
    SELECT
        p.id,
        s.priority,
        s.job_runtime_limit_minutes
    FROM projects AS p
    INNER JOIN schemes AS s ON p.scheme_id = s.id
    WHERE p.id = $1 AND p.status = 1 AND s.status = 1
    FOR NO KEY UPDATE OF p
),
job AS (
    INSERT INTO jobs (
        project_id, is_incremental, is_forced, revision, created_from, creator, priority,
        expires_at, runtime_limit_s
    )
    SELECT
        project.id, $2, $3, $4, $5, $6, project.priority,
        now() + make_interval(secs => $7), project.job_runtime_limit_minutes * 60
    FROM project
    RETURNING id, project_id, created_from, is_incremental, is_forced
),
scan AS (
    INSERT INTO scans (job_id, project_id, scan_type, full_reason)
    SELECT
        job.id,
        job.project_id,
        CASE WHEN job.is_incremental THEN 1 ELSE 2 END,
        CASE WHEN NOT job.is_incremental THEN 'requested' END
    FROM job
    RETURNING id
),
written AS (
    INSERT INTO events (kind, project_id, job_id, actor, detail)
    SELECT
        'job.created', job.project_id, job.id, $6,
        jsonb_build_object(
            'created_from', job.created_from,
            'incr_scan', job.is_incremental,
            'force_create', job.is_forced
        )
    FROM job
)
SELECT
    job.id AS job_id,
    scan.id AS scan_id
FROM job CROSS JOIN scan
