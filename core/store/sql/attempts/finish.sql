-- Accept the result of a running attempt: by its lease, once; retry it or close its task.
WITH held AS MATERIALIZED (
    SELECT l.job_id
    FROM task_leases AS l
    WHERE
        l.attempt_id = $2
        AND l.token_hash = $3
        AND l.worker_id = $1
        AND l.started_at IS NOT NULL
),
job AS MATERIALIZED (
    SELECT j.id
    FROM jobs AS j
    WHERE j.id IN (SELECT held.job_id FROM held) AND j.phase IN ('preparing', 'queued', 'running')
    FOR NO KEY UPDATE
),
lease AS (
    DELETE FROM task_leases AS l
    USING job
    WHERE
        l.attempt_id = $2
        AND l.token_hash = $3
        AND l.job_id = job.id
    RETURNING
        l.*,
        -- Handed back: uncounted, but not for ever.
        $17 AND l.number < 100 AS is_requeued,
        $13 AND l.failures + 1 < $14 AND NOT ($17 AND l.number < 100) AS is_retried
),
attempt AS (
    INSERT INTO task_attempts (
        task_id, attempt_id, job_id, worker_id, number, token_hash, body_hash, outcome, reason,
        message, exit_code, signal, offered_at, started_at
    )
    SELECT
        lease.task_id, lease.attempt_id, lease.job_id, lease.worker_id, lease.number,
        lease.token_hash, $10, $4, $5, $6, $7, $8, lease.offered_at, lease.started_at
    FROM lease
),
retried AS (
    INSERT INTO task_pending (
        task_id, job_id, class_id, sort_key, failures, resets, not_before, reason
    )
    SELECT
        lease.task_id, lease.job_id, lease.class_id, lease.sort_key, lease.failures + 1,
        lease.resets,
        -- exponential back-off, full jitter
        now() + make_interval(secs => random() * least($16, $15 * 2 ^ lease.failures)),
        'retry'
    FROM lease
    WHERE lease.is_retried
),
ready AS (
    INSERT INTO task_ready (task_id, job_id, class_id, sort_key, failures, resets)
    SELECT lease.task_id, lease.job_id, lease.class_id, lease.sort_key, lease.failures, lease.resets
    FROM lease
    WHERE lease.is_requeued
),
outcome AS (
    INSERT INTO task_outcomes (
        task_id, job_id, outcome, reason, result_code, result_msg, attempt_id, result
    )
    SELECT lease.task_id, lease.job_id, $4, $5, $11, $12, lease.attempt_id, $9
    FROM lease
    WHERE NOT lease.is_retried AND NOT lease.is_requeued
    RETURNING task_id, job_id
),
task AS (
    SELECT
        t.id,
        t.kind
    FROM tasks AS t
    INNER JOIN lease ON t.id = lease.task_id
),
counted AS (
    UPDATE jobs AS j
    SET open_tasks = j.open_tasks - 1
    FROM outcome
    INNER JOIN task ON outcome.task_id = task.id
    WHERE j.id = outcome.job_id AND task.kind = 'engine'
),
written AS (
    INSERT INTO events (kind, job_id, task_id, attempt_id, worker_id, detail)
    SELECT
        CASE
            WHEN lease.is_requeued THEN 'task.requeued'
            WHEN lease.is_retried THEN 'task.retried'
            ELSE 'task.closed'
        END,
        lease.job_id, lease.task_id, lease.attempt_id, lease.worker_id,
        jsonb_build_object('outcome', $4::text, 'reason', $5::text)
    FROM lease
)
SELECT
    lease.task_id,
    lease.job_id,
    lease.is_requeued,
    lease.is_retried,
    task.kind
FROM lease
INNER JOIN task ON lease.task_id = task.id
