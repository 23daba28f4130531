-- Record revision and base of a resolved job and queue its preparation; guarded by the admission.
WITH job AS (
    UPDATE jobs
    SET
        phase = 'preparing',
        admission_token = NULL,
        admission_expires_at = NULL,
        prepare_task_id = nextval(pg_get_serial_sequence('tasks', 'id'))
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
    RETURNING id, job_id, class_id
),
ready AS (
    INSERT INTO task_ready (task_id, job_id, class_id, sort_key)
    SELECT task.id, task.job_id, task.class_id, $11
    FROM task
),
written AS (
    INSERT INTO events (kind, project_id, job_id, task_id, detail)
    SELECT
        'job.resolved', job.project_id, job.id, job.prepare_task_id,
        jsonb_build_object('revision', $3::text, 'base_revision', $4::text)
    FROM job
)
SELECT task.id AS task_id FROM task
