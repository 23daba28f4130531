-- Accept results of running attempts: each by its lease, once; retry its task or close it.
WITH asked AS MATERIALIZED (
    SELECT DISTINCT ON (a.attempt_id) a.*
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
    ORDER BY a.attempt_id, a.n
),
held AS MATERIALIZED (
    SELECT
        asked.n,
        l.attempt_id,
        l.job_id,
        coalesce(log.size, 0) AS log_size,
        coalesce(log.size, 0) >= asked.log_bytes AS has_log,
        NOT EXISTS (
            SELECT
            FROM
                jsonb_to_recordset(asked.artifacts -> 'named')
                AS named (name text, size_bytes bigint, sha256 text)
            WHERE NOT EXISTS (
                SELECT
                FROM artifacts AS a
                WHERE
                    a.task_id = l.task_id
                    AND a.attempt_id = l.attempt_id
                    AND a.name = named.name
                    AND a.size_bytes = named.size_bytes
                    AND a.sha256 = decode(named.sha256, 'hex')
            )
        ) AS has_artifacts
    FROM asked
    INNER JOIN task_leases AS l ON asked.attempt_id = l.attempt_id
    LEFT JOIN LATERAL (
        SELECT b.position + octet_length(b.content) AS size
        FROM blobs AS b
        WHERE
            asked.log_bytes > 0
            AND b.task_id = l.task_id
            AND b.attempt_id = l.attempt_id
            AND b.name = 'log'
        ORDER BY b.position DESC
        LIMIT 1
    ) AS log ON true
    WHERE
        l.token_hash = asked.token_hash
        AND l.worker_id = asked.worker_id
        AND l.started_at IS NOT NULL
),
job AS MATERIALIZED (
    SELECT
        j.id,
        j.prepare_task_id
    FROM jobs AS j
    WHERE
        j.id IN (SELECT held.job_id FROM held WHERE held.has_log AND held.has_artifacts)
        AND j.phase IN ('preparing', 'queued', 'running')
    ORDER BY j.id
    FOR NO KEY UPDATE
),
lease AS (
    DELETE FROM task_leases AS l
    USING held, job, asked
    WHERE
        l.attempt_id = held.attempt_id
        AND held.has_log
        AND held.has_artifacts
        AND l.job_id = job.id
        AND asked.n = held.n
        AND l.token_hash = asked.token_hash
    RETURNING
        l.*,
        asked.n,
        asked.outcome,
        asked.reason,
        asked.message,
        asked.exit_code,
        asked.signal,
        asked.result,
        asked.body_hash,
        asked.result_code,
        asked.result_msg,
        l.task_id <> job.prepare_task_id AS is_engine,
        -- Handed back: uncounted, but not for ever.
        asked.is_handed_back AND l.number < 100 AS is_requeued,
        asked.is_retryable
        AND l.failures + 1 < $17
        AND NOT (asked.is_handed_back AND l.number < 100) AS is_retried
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
        lease.number, lease.failures + 1, lease.resets,
        -- exponential back-off, full jitter
        now() + make_interval(secs => random() * least($19, $18 * 2 ^ lease.failures)),
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
        lease.result_msg, lease.attempt_id, lease.result
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
    RETURNING j.id, j.open_tasks
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
    held.n,
    held.log_size,
    held.has_log,
    held.has_artifacts,
    lease.n IS NOT NULL AS is_accepted,
    lease.task_id,
    lease.job_id,
    lease.is_requeued,
    lease.is_retried,
    lease.is_engine,
    -- null: nothing counted down
    counted.open_tasks
FROM held
LEFT JOIN lease ON held.n = lease.n
LEFT JOIN counted ON lease.job_id = counted.id
ORDER BY held.n
