-- Give a prepared job its engine tasks; guarded by its phase, so that one scheduler plans it.
WITH job AS (
    UPDATE jobs
    SET
        phase = 'queued',
        task_num = cardinality($2::text[]),
        open_tasks = cardinality($2::text[])
    WHERE id = $1 AND phase = 'preparing'
    RETURNING id, project_id
),
scan AS (
    UPDATE scans
    SET
        scan_type = $6,
        full_reason = $7,
        base_revision = $8,
        base_scan_id = CASE WHEN $8::text IS NOT NULL THEN scans.base_scan_id END
    FROM job
    WHERE scans.job_id = job.id
),
task AS (
    INSERT INTO tasks (job_id, kind, engine, module, class_id, spec)
    SELECT job.id, 'engine', e.engine, e.module, e.class_id, e.spec
    FROM
        job,
        unnest($2::text[], $3::text[], $4::integer[], $5::jsonb[])
        WITH ORDINALITY AS e (engine, module, class_id, spec, n)
    ORDER BY e.n
    RETURNING id, job_id, class_id
),
ready AS (
    INSERT INTO task_ready (task_id, job_id, class_id, sort_key, preferred_worker_id)
    SELECT task.id, task.job_id, task.class_id, $9, $10
    FROM task
),
written AS (
    INSERT INTO events (kind, project_id, job_id, detail)
    SELECT
        'job.planned', job.project_id, job.id,
        jsonb_build_object('engines', $2::text[], 'full_reason', $7::text)
    FROM job
)
SELECT job.id AS job_id FROM job
