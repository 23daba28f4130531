-- Start offered attempts of open jobs; the first engine task that starts makes its job running.
WITH held AS MATERIALIZED (
    SELECT
        l.attempt_id,
        l.job_id
    FROM unnest($1::bigint[], $2::bigint[], $3::bytea[]) AS asked (worker_id, attempt_id, token_hash)
    CROSS JOIN LATERAL (
        -- One by one, by the key: a plan made while the table was small would read all of it.
        SELECT t.*
        FROM task_leases AS t
        WHERE t.attempt_id = asked.attempt_id
        OFFSET 0
    ) AS l
    WHERE l.token_hash = asked.token_hash AND l.worker_id = asked.worker_id
),
job AS MATERIALIZED (
    -- Jobs are locked before leases, by every statement that locks both.
    SELECT j.id
    FROM (SELECT DISTINCT held.job_id FROM held ORDER BY 1) AS named
    CROSS JOIN LATERAL (
        SELECT
            jobs.id,
            jobs.phase
        FROM jobs
        WHERE jobs.id = named.job_id
        OFFSET 0
        FOR NO KEY UPDATE
    ) AS j
    WHERE j.phase IN ('preparing', 'queued', 'running')
),
moment AS MATERIALIZED (
    -- The clock's time, not the transaction's: it may have waited for the jobs, read here to the end.
    SELECT
        count(*) AS jobs,
        clock_timestamp() AS at
    FROM job
),
started AS (
    UPDATE task_leases AS l
    SET started_at = coalesce(l.started_at, moment.at)
    FROM moment
    CROSS JOIN held
    CROSS JOIN LATERAL (
        SELECT jobs.prepare_task_id
        FROM jobs
        WHERE jobs.id = held.job_id
        OFFSET 0
    ) AS j
    WHERE
        l.attempt_id = held.attempt_id
        -- "is true" has it hashed: as a join, each lease would be compared with each job.
        AND (held.job_id IN (SELECT job.id FROM job)) IS TRUE
    RETURNING
        l.attempt_id, l.task_id, l.job_id, l.worker_id, l.started_at,
        l.task_id <> j.prepare_task_id AS is_engine,
        -- Asked again, it runs since before: one start, one event.
        l.started_at = moment.at AS is_new
),
engine AS (
    SELECT
        started.job_id,
        min(started.started_at) AS started_at
    FROM started
    WHERE started.is_engine
    GROUP BY started.job_id
),
running AS (
    UPDATE jobs AS j
    SET
        phase = 'running',
        started_at = greatest(engine.started_at, j.created_at),
        expires_at = engine.started_at + make_interval(secs => j.runtime_limit_s)
    FROM engine
    -- "is true" again: by its id, and not through the index of phases.
    WHERE j.id = engine.job_id AND (j.phase = 'queued') IS TRUE
    RETURNING j.id, j.project_id
),
written AS (
    INSERT INTO events (kind, project_id, job_id, task_id, attempt_id, worker_id)
    SELECT
        'task.started', NULL::bigint, started.job_id, started.task_id, started.attempt_id,
        started.worker_id
    FROM started
    WHERE started.is_new
    UNION ALL
    SELECT 'job.started', running.project_id, running.id, NULL, NULL, NULL
    FROM running
)
SELECT
    started.attempt_id,
    started.job_id
FROM started
