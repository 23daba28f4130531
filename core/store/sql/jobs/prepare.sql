-- Record revision and base of a resolved job and queue its preparation; guarded by the admission.
WITH job AS (
    UPDATE jobs
    SET
        phase = 'preparing',
        admission_token = NULL,
        admission_expires_at = NULL,
        prepare_task_id = nextval(pg_get_serial_sequence('tasks', 'id')),
        first_key = $11,
        key_step = $12
    WHERE id = $1 AND phase = 'resolving' AND admission_token = $2
    RETURNING id, project_id, prepare_task_id
),
scan AS (
    UPDATE scans
    SET
        revision = $3,
        base_revision = $4,
        base_scan_id = $5,
        config_hash = $6,
        scan_type = $7,
        full_reason = $8
    FROM job
    WHERE scans.job_id = job.id
),
task AS (
    INSERT INTO tasks (id, job_id, kind, engine, module, class_id, spec)
    OVERRIDING SYSTEM VALUE
    SELECT job.prepare_task_id, job.id, 'prepare', 'prepare', 'prepare', $9, $10
    FROM job
    RETURNING id, job_id, class_id, engine, spec
),
placed AS (
    SELECT
        task.*,
        job.project_id,
        -- What is limited is put into the queue by the promoter alone, which counts.
        CASE
            WHEN p.max_running IS NOT NULL THEN 'limit_project'
            WHEN o.max_running IS NOT NULL THEN 'limit_organization'
            WHEN EXISTS (SELECT FROM engine_limits AS e WHERE e.engine = 'prepare')
                THEN 'limit_engine'
        END AS waits_for
    FROM task
    INNER JOIN job ON task.job_id = job.id
    INNER JOIN projects AS p ON job.project_id = p.id
    INNER JOIN repos AS r ON p.repo_id = r.id
    INNER JOIN teams AS t ON r.team_id = t.id
    INNER JOIN organizations AS o ON t.org_id = o.id
),
ready AS (
    INSERT INTO task_ready (task_id, job_id, project_id, class_id, sort_key, engine, spec)
    SELECT
        placed.id, placed.job_id, placed.project_id, placed.class_id, $11, placed.engine,
        placed.spec
    FROM placed
    WHERE placed.waits_for IS NULL
),
pending AS (
    INSERT INTO task_pending (
        task_id, job_id, project_id, class_id, sort_key, failures, resets, not_before, reason
    )
    SELECT
        placed.id, placed.job_id, placed.project_id, placed.class_id, $11, 0, 0, now(),
        placed.waits_for
    FROM placed
    WHERE placed.waits_for IS NOT NULL
),
written AS (
    INSERT INTO events (kind, project_id, job_id, task_id, detail)
    SELECT
        'job.resolved', job.project_id, job.id, job.prepare_task_id,
        jsonb_build_object('revision', $3::text, 'base_revision', $4::text)
    FROM job
)
SELECT
    placed.id AS task_id,
    placed.waits_for IS NOT NULL AS is_limited
FROM placed
