-- Take running attempts from workers that are gone: requeue the tasks, or close what lost too many.
WITH gone AS MATERIALIZED (
    SELECT
        l.attempt_id,
        l.job_id
    FROM task_leases AS l
    WHERE
        l.worker_id = ANY($1::bigint[])
        AND l.started_at IS NOT NULL
        AND ($2::bigint[] IS NULL OR l.attempt_id = ANY($2::bigint[]))
),
job AS MATERIALIZED (
    SELECT j.id
    FROM (SELECT DISTINCT gone.job_id FROM gone ORDER BY 1) AS named
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
lease AS (
    DELETE FROM task_leases AS l
    USING gone
    CROSS JOIN LATERAL (
        SELECT jobs.prepare_task_id
        FROM jobs
        WHERE jobs.id = gone.job_id
        OFFSET 0
    ) AS j
    WHERE
        l.attempt_id = gone.attempt_id
        -- "is true" has it hashed: as a join, each lease would be compared with each job.
        AND (gone.job_id IN (SELECT job.id FROM job)) IS TRUE
        AND l.started_at IS NOT NULL
    RETURNING
        l.*,
        l.resets + 1 < $3 AS is_requeued,
        -- The first loss may be any worker's: at once. From the second on the task may be its cause.
        l.resets > 0 AND l.resets + 1 < $3 AS is_delayed,
        l.task_id <> j.prepare_task_id AS is_engine
),
attempt AS (
    INSERT INTO task_attempts (
        task_id, attempt_id, job_id, worker_id, number, token_hash, outcome, reason,
        offered_at, started_at, ended_at
    )
    SELECT
        lease.task_id, lease.attempt_id, lease.job_id, lease.worker_id, lease.number,
        lease.token_hash, 'lost', 'worker_lost', lease.offered_at, lease.started_at,
        -- not the transaction's time, which may lie before the start
        clock_timestamp()
    FROM lease
),
ready AS (
    INSERT INTO task_ready (
        task_id, job_id, project_id, class_id, sort_key, attempts, failures, resets
    )
    SELECT
        lease.task_id, lease.job_id, lease.project_id, lease.class_id, lease.sort_key,
        lease.number, lease.failures, lease.resets + 1
    FROM lease
    WHERE lease.is_requeued AND NOT lease.is_delayed
),
delayed AS (
    INSERT INTO task_pending (
        task_id, job_id, project_id, class_id, sort_key, attempts, failures, resets, not_before,
        reason
    )
    SELECT
        lease.task_id, lease.job_id, lease.project_id, lease.class_id, lease.sort_key,
        lease.number, lease.failures, lease.resets + 1,
        -- exponential back-off, full jitter
        now()
        + make_interval(secs => random() * least($6, $5 * 2 ^ (lease.failures + lease.resets))),
        'retry'
    FROM lease
    WHERE lease.is_delayed
),
outcome AS (
    INSERT INTO task_outcomes (
        task_id, job_id, outcome, reason, result_code, result_msg, attempt_id, closed_at
    )
    SELECT
        lease.task_id, lease.job_id, 'lost', 'worker_lost', 200,
        format($4, lease.resets + 1, $7::text), lease.attempt_id, clock_timestamp()
    FROM lease
    WHERE NOT lease.is_requeued
),
closed AS (
    SELECT
        lease.job_id,
        count(*) AS engine_tasks
    FROM lease
    WHERE lease.is_engine AND NOT lease.is_requeued
    GROUP BY lease.job_id
),
counted AS (
    UPDATE jobs AS j
    SET open_tasks = j.open_tasks - closed.engine_tasks
    FROM closed
    WHERE j.id = closed.job_id
),
written AS (
    INSERT INTO events (kind, job_id, task_id, attempt_id, worker_id, detail)
    SELECT
        CASE WHEN lease.is_requeued THEN 'task.requeued' ELSE 'task.closed' END,
        lease.job_id, lease.task_id, lease.attempt_id, lease.worker_id,
        jsonb_build_object('outcome', 'lost', 'reason', 'worker_lost')
    FROM lease
)
SELECT
    lease.attempt_id,
    lease.task_id,
    lease.job_id,
    lease.worker_id,
    lease.is_requeued,
    lease.is_delayed
FROM lease
