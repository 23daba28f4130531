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
    RETURNING id, job_id, class_id, engine, spec
),
placed AS (
    SELECT
        task.id,
        task.job_id,
        task.class_id,
        task.engine,
        task.spec,
        job.project_id,
        -- The ids are in the order of the engines.
        $9 + $11 * (row_number() OVER (ORDER BY task.id) - 1) AS sort_key,
        -- What is limited is put into the queue by the promoter alone, which counts.
        CASE
            WHEN p.max_running IS NOT NULL THEN 'limit_project'
            WHEN o.max_running IS NOT NULL THEN 'limit_organization'
            WHEN e.engine IS NOT NULL THEN 'limit_engine'
        END AS waits_for
    FROM task
    INNER JOIN job ON task.job_id = job.id
    INNER JOIN projects AS p ON job.project_id = p.id
    INNER JOIN repos AS r ON p.repo_id = r.id
    INNER JOIN teams AS t ON r.team_id = t.id
    INNER JOIN organizations AS o ON t.org_id = o.id
    LEFT JOIN engine_limits AS e ON task.engine = e.engine
),
ready AS (
    INSERT INTO task_ready (
        task_id, job_id, project_id, class_id, sort_key, preferred_worker_id, engine, spec
    )
    SELECT
        placed.id, placed.job_id, placed.project_id, placed.class_id, placed.sort_key, $10,
        placed.engine, placed.spec
    FROM placed
    WHERE placed.waits_for IS NULL
),
pending AS (
    INSERT INTO task_pending (
        task_id, job_id, project_id, class_id, sort_key, failures, resets, not_before, reason,
        preferred_worker_id
    )
    SELECT
        placed.id, placed.job_id, placed.project_id, placed.class_id, placed.sort_key, 0, 0,
        now(), placed.waits_for, $10
    FROM placed
    WHERE placed.waits_for IS NOT NULL
),
written AS (
    INSERT INTO events (kind, project_id, job_id, detail)
    SELECT
        'job.planned', job.project_id, job.id,
        jsonb_build_object('engines', $2::text[], 'full_reason', $7::text)
    FROM job
)
SELECT
    job.id AS job_id,
    EXISTS (SELECT FROM placed WHERE placed.waits_for IS NOT NULL) AS is_limited
FROM job
