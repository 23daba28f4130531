-- Accept results of running attempts: each by its lease, once; retry its task or close it.
WITH asked AS MATERIALIZED (
    SELECT a.*
    FROM
        unnest(
            $1::bigint[], $2::bigint[], $3::bytea[], $4::text[], $5::text[], $6::text[],
            $7::integer[], $8::smallint[], $9::jsonb[], $10::bytea[], $11::integer[], $12::text[],
            $13::boolean[], $14::boolean[], $15::bigint[], $16::jsonb[]
        ) WITH ORDINALITY
        AS a (
            worker_id, attempt_id, token_hash, outcome, reason, message,
            exit_code, signal, result, body_hash, result_code, result_msg,
            is_retryable, is_handed_back, log_bytes, artifacts, n
        )
),
held AS MATERIALIZED (
    SELECT
        asked.*,
        l.job_id,
        l.log_bytes AS log_size,
        l.log_bytes >= asked.log_bytes AS has_log,
        l.artifacts @> (asked.artifacts -> 'named') AS has_artifacts
    FROM asked
    CROSS JOIN LATERAL (
        -- One by one, by the key: a plan made while the table was small would read all of it.
        SELECT t.*
        FROM task_leases AS t
        WHERE t.attempt_id = asked.attempt_id
        OFFSET 0
    ) AS l
    WHERE
        l.token_hash = asked.token_hash
        AND l.worker_id = asked.worker_id
        AND l.started_at IS NOT NULL
),
whole AS MATERIALIZED (
    -- Of several for one attempt the first counts; its twins are looked up as repetitions.
    SELECT DISTINCT ON (held.attempt_id) held.*
    FROM held
    WHERE held.has_log AND held.has_artifacts
    ORDER BY held.attempt_id, held.n
),
job AS MATERIALIZED (
    SELECT j.id
    FROM (SELECT DISTINCT whole.job_id FROM whole ORDER BY 1) AS named
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
    USING whole
    CROSS JOIN LATERAL (
        SELECT jobs.prepare_task_id
        FROM jobs
        WHERE jobs.id = whole.job_id
        OFFSET 0
    ) AS j
    WHERE
        l.attempt_id = whole.attempt_id
        AND l.token_hash = whole.token_hash
        -- "is true" has it hashed: as a join, each result would be compared with each job.
        AND (whole.job_id IN (SELECT job.id FROM job)) IS TRUE
    RETURNING
        l.*,
        whole.n,
        whole.outcome,
        whole.reason,
        whole.message,
        whole.exit_code,
        whole.signal,
        whole.result,
        whole.body_hash,
        whole.result_code,
        whole.result_msg,
        l.task_id <> j.prepare_task_id AS is_engine,
        -- What takes workers down is counted apart from what only fails.
        coalesce(whole.reason = ANY($20::text[]), false) AS is_resetting,
        -- Handed back: uncounted, but not for ever.
        whole.is_handed_back AND l.number < 100 AS is_requeued,
        whole.is_retryable
        AND CASE
            WHEN whole.reason = ANY($20::text[]) THEN l.resets + 1 < $21 ELSE l.failures + 1 < $17
        END
        AND NOT (whole.is_handed_back AND l.number < 100) AS is_retried
),
attempt AS (
    INSERT INTO task_attempts (
        task_id, attempt_id, job_id, worker_id, number, token_hash, body_hash, outcome, reason,
        message, exit_code, signal, offered_at, started_at
    )
    SELECT
        lease.task_id, lease.attempt_id, lease.job_id, lease.worker_id, lease.number,
        lease.token_hash, lease.body_hash, lease.outcome, lease.reason, lease.message,
        lease.exit_code, lease.signal, lease.offered_at, lease.started_at
    FROM lease
),
retried AS (
    INSERT INTO task_pending (
        task_id, job_id, project_id, class_id, sort_key, attempts, failures, resets, not_before,
        reason
    )
    SELECT
        lease.task_id, lease.job_id, lease.project_id, lease.class_id, lease.sort_key,
        lease.number,
        lease.failures + CASE WHEN lease.is_resetting THEN 0 ELSE 1 END,
        lease.resets + CASE WHEN lease.is_resetting THEN 1 ELSE 0 END,
        -- exponential back-off, full jitter
        now()
        + make_interval(secs => random() * least($19, $18 * 2 ^ (lease.failures + lease.resets))),
        'retry'
    FROM lease
    WHERE lease.is_retried
),
ready AS (
    INSERT INTO task_ready (
        task_id, job_id, project_id, class_id, sort_key, attempts, failures, resets
    )
    SELECT
        lease.task_id, lease.job_id, lease.project_id, lease.class_id, lease.sort_key,
        lease.number, lease.failures, lease.resets
    FROM lease
    WHERE lease.is_requeued
),
outcome AS (
    INSERT INTO task_outcomes (
        task_id, job_id, outcome, reason, result_code, result_msg, attempt_id, result
    )
    SELECT
        lease.task_id, lease.job_id, lease.outcome, lease.reason, lease.result_code,
        CASE
            WHEN lease.is_resetting THEN format($22, lease.resets + 1, lease.result_msg)
            ELSE lease.result_msg
        END,
        lease.attempt_id, lease.result
    FROM lease
    WHERE NOT lease.is_retried AND NOT lease.is_requeued
),
closed AS (
    SELECT
        lease.job_id,
        count(*) AS engine_tasks
    FROM lease
    WHERE lease.is_engine AND NOT lease.is_retried AND NOT lease.is_requeued
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
        CASE
            WHEN lease.is_requeued THEN 'task.requeued'
            WHEN lease.is_retried THEN 'task.retried'
            ELSE 'task.closed'
        END,
        lease.job_id, lease.task_id, lease.attempt_id, lease.worker_id,
        jsonb_build_object('outcome', lease.outcome, 'reason', lease.reason)
    FROM lease
)
SELECT
    lease.n,
    lease.log_bytes AS log_size,
    true AS has_log,
    true AS has_artifacts,
    true AS is_accepted,
    lease.job_id,
    lease.is_requeued,
    lease.is_retried,
    lease.is_engine,
    -- by what its worker is judged
    lease.task_id,
    lease.attempt_id,
    lease.failures > 0 AS is_retry,
    (SELECT w.faults > 0 FROM workers AS w WHERE w.id = lease.worker_id) AS is_suspect
FROM lease
UNION ALL
SELECT
    held.n,
    held.log_size,
    held.has_log,
    held.has_artifacts,
    false AS is_accepted,
    held.job_id,
    NULL AS is_requeued,
    NULL AS is_retried,
    NULL AS is_engine,
    NULL AS task_id,
    NULL AS attempt_id,
    NULL AS is_retry,
    NULL AS is_suspect
FROM held
WHERE NOT (held.has_log AND held.has_artifacts)
