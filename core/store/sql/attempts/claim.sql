-- Offer a worker the first ready tasks it fits, in queue order; another claim's rows are skipped.
WITH candidate AS MATERIALIZED (
    SELECT
        head.task_id,
        head.sort_key
    FROM worker_classes AS wc
    INNER JOIN workers AS w ON wc.worker_id = w.id
    CROSS JOIN LATERAL (
        SELECT
            r.task_id,
            r.sort_key
        FROM task_ready AS r
        WHERE
            r.class_id = wc.class_id
            AND (
                r.preferred_worker_id IS NULL
                OR r.preferred_worker_id = $1
                OR r.ready_at < now() - make_interval(secs => $4)
            )
        ORDER BY r.sort_key, r.task_id
        LIMIT cardinality($3::bytea[]) + 64
    ) AS head
    WHERE wc.worker_id = $1 AND w.directive IS NULL AND NOT w.is_draining
    ORDER BY head.sort_key, head.task_id
    LIMIT cardinality($3::bytea[]) + 64
),
picked AS MATERIALIZED (
    SELECT r.task_id
    FROM candidate AS c
    INNER JOIN task_ready AS r ON c.task_id = r.task_id
    ORDER BY c.sort_key, c.task_id
    LIMIT cardinality($3::bytea[])
    FOR UPDATE OF r SKIP LOCKED
),
taken AS (
    DELETE FROM task_ready AS r
    USING picked
    WHERE r.task_id = picked.task_id
    RETURNING r.task_id, r.job_id, r.class_id, r.sort_key, r.failures, r.resets
),
numbered AS (
    SELECT
        taken.*,
        row_number() OVER (ORDER BY taken.sort_key, taken.task_id) AS n
    FROM taken
),
lease AS (
    INSERT INTO task_leases (
        task_id, job_id, worker_id, number, token_hash, claim_id, claim_index, class_id,
        sort_key, failures, resets
    )
    SELECT
        n.task_id, n.job_id, $1, past.attempts + 1, ($3::bytea[])[n.n], $2, n.n - 1,
        n.class_id, n.sort_key, n.failures, n.resets
    FROM numbered AS n
    CROSS JOIN LATERAL (
        SELECT count(*) AS attempts
        FROM task_attempts AS a
        WHERE a.task_id = n.task_id
    ) AS past
    RETURNING attempt_id, task_id, job_id, worker_id
),
written AS (
    INSERT INTO events (kind, job_id, task_id, attempt_id, worker_id)
    SELECT 'task.offered', lease.job_id, lease.task_id, lease.attempt_id, lease.worker_id
    FROM lease
)
SELECT lease.attempt_id FROM lease
