-- Start offered attempts of open jobs; the first engine task that starts makes its job running.
WITH held AS MATERIALIZED (
    SELECT
        l.attempt_id,
        l.job_id
    FROM task_leases AS l
    INNER JOIN unnest($2::bigint[], $3::bytea[]) AS asked (attempt_id, token_hash)
        ON l.attempt_id = asked.attempt_id AND l.token_hash = asked.token_hash
    WHERE l.worker_id = $1
),
job AS MATERIALIZED (
    -- Jobs are locked before leases, by every statement that locks both.
    SELECT j.id
    FROM jobs AS j
    WHERE j.id IN (SELECT held.job_id FROM held) AND j.phase IN ('preparing', 'queued', 'running')
    ORDER BY j.id
    FOR NO KEY UPDATE
),
started AS (
    UPDATE task_leases AS l
    -- The clock's time, not the transaction's: it may have waited for the job.
    SET started_at = coalesce(l.started_at, clock_timestamp())
    FROM held
    INNER JOIN job ON held.job_id = job.id
    WHERE l.attempt_id = held.attempt_id
    RETURNING l.attempt_id, l.task_id, l.job_id, l.worker_id, l.started_at
),
engine AS (
    SELECT
        started.job_id,
        min(started.started_at) AS started_at
    FROM started
    INNER JOIN tasks AS t ON started.task_id = t.id
    WHERE t.kind = 'engine'
    GROUP BY started.job_id
),
running AS (
    UPDATE jobs AS j
    SET
        phase = 'running',
        started_at = greatest(engine.started_at, j.created_at),
        expires_at = engine.started_at + make_interval(secs => j.runtime_limit_s)
    FROM engine
    WHERE j.id = engine.job_id AND j.phase = 'queued'
    RETURNING j.id, j.project_id
),
written AS (
    INSERT INTO events (kind, project_id, job_id, task_id, attempt_id, worker_id)
    SELECT
        'task.started', NULL::bigint, started.job_id, started.task_id, started.attempt_id,
        started.worker_id
    FROM started
    UNION ALL
    SELECT 'job.started', running.project_id, running.id, NULL, NULL, NULL
    FROM running
)
SELECT
    started.attempt_id,
    started.job_id
FROM started
