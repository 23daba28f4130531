-- Offer one worker the first ready tasks it fits, in queue order; a repeated claim gets its answer.
-- A row without a spec: the task itself has it. Committed without waiting for the disk: an offer that
-- a crash takes back cannot be started any more, and its task is ready still.
WITH known AS MATERIALIZED (
    SELECT l.*
    FROM task_leases AS l
    WHERE l.worker_id = $1 AND l.claim_id = $2
),
candidate AS MATERIALIZED (
    SELECT
        head.place_in_table,
        head.task_id,
        head.sort_key
    FROM workers AS w
    CROSS JOIN LATERAL unnest(w.class_ids) AS c (class_id)
    LEFT JOIN unnest($5::integer[], $6::bigint[]) AS hint (class_id, least_key)
        ON c.class_id = hint.class_id
    CROSS JOIN LATERAL (
        SELECT
            -- Rows of this table are made and deleted, never changed: each keeps its place.
            r.ctid AS place_in_table,
            r.task_id,
            r.sort_key
        FROM task_ready AS r
        WHERE
            -- From here on in the index: past the dead entries that an old snapshot keeps there.
            -- As a range, and not as an equality that statistics may take for rare and sort.
            (r.class_id, r.sort_key)
            >= (c.class_id, coalesce(hint.least_key, -9223372036854775808))
            AND r.class_id <= c.class_id
            AND (
                r.preferred_worker_id IS NULL
                OR r.preferred_worker_id = $1
                OR r.ready_at < now() - make_interval(secs => $4)
            )
        ORDER BY r.class_id, r.sort_key, r.task_id
        LIMIT $7
    ) AS head
    WHERE
        w.id = $1
        AND w.directive IS NULL
        AND NOT w.is_draining
        AND (w.quarantined_until IS NULL OR w.quarantined_until < now())
        AND NOT EXISTS (SELECT FROM known)
        AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
    ORDER BY head.sort_key, head.task_id
    LIMIT $7
),
picked AS MATERIALIZED (
    SELECT r.ctid AS place_in_table
    FROM candidate AS c
    INNER JOIN task_ready AS r ON c.place_in_table = r.ctid
    ORDER BY c.sort_key, c.task_id
    LIMIT cardinality($3::bytea[])
    FOR UPDATE OF r SKIP LOCKED
),
taken AS (
    DELETE FROM task_ready AS r
    USING picked
    WHERE r.ctid = picked.place_in_table
    RETURNING r.*
),
numbered AS MATERIALIZED (
    SELECT
        taken.*,
        nextval('attempt_ids') AS attempt_id,
        row_number() OVER (ORDER BY taken.sort_key, taken.task_id) AS k
    FROM taken
),
lease AS (
    INSERT INTO task_leases (
        attempt_id, task_id, job_id, project_id, worker_id, number, token_hash, claim_id,
        claim_index, class_id, sort_key, failures, resets
    )
    SELECT
        n.attempt_id, n.task_id, n.job_id, n.project_id, $1, n.attempts + 1, ($3::bytea[])[n.k],
        $2, n.k - 1, n.class_id, n.sort_key, n.failures, n.resets
    FROM numbered AS n
)
SELECT
    offer.attempt_id,
    offer.task_id,
    offer.job_id,
    offer.class_id,
    offer.sort_key,
    offer.number,
    offer.claim_index,
    offer.token_hash,
    offer.engine,
    offer.spec,
    r.scm_auth
FROM (
    SELECT
        n.attempt_id,
        n.task_id,
        n.job_id,
        n.project_id,
        n.class_id,
        n.sort_key,
        n.attempts + 1 AS number,
        n.k - 1 AS claim_index,
        ($3::bytea[])[n.k] AS token_hash,
        n.engine,
        n.spec
    FROM numbered AS n
    UNION ALL
    SELECT
        known.attempt_id,
        known.task_id,
        known.job_id,
        known.project_id,
        known.class_id,
        known.sort_key,
        known.number,
        known.claim_index,
        known.token_hash,
        NULL,
        NULL
    FROM known
    WHERE known.started_at IS NULL
) AS offer
INNER JOIN projects AS p ON offer.project_id = p.id
INNER JOIN repos AS r ON p.repo_id = r.id
