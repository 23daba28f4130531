-- Offer workers the first ready tasks they fit, in queue order; a repeated claim gets its answer.
-- Workers that fit the same classes as the first of them are served together; a row without an
-- attempt names a claim that fits others and is to be asked again. Committed without waiting for
-- the disk: see `claim`.
WITH ask AS MATERIALIZED (
    SELECT
        a.worker_id,
        a.claim_id,
        a.wanted,
        a.first_token,
        a.n
    FROM
        unnest($1::bigint[], $2::uuid[], $3::integer[], $4::integer[])
        WITH ORDINALITY AS a (worker_id, claim_id, wanted, first_token, n)
),
known AS MATERIALIZED (
    SELECT
        ask.n,
        l.attempt_id,
        l.task_id,
        l.job_id,
        l.project_id,
        l.class_id,
        l.sort_key,
        l.number,
        l.claim_index,
        l.token_hash,
        l.started_at
    FROM ask
    INNER JOIN task_leases AS l ON ask.worker_id = l.worker_id AND ask.claim_id = l.claim_id
),
free AS MATERIALIZED (
    SELECT
        ask.worker_id,
        ask.claim_id,
        ask.wanted,
        ask.first_token,
        ask.n,
        w.class_ids
    FROM ask
    INNER JOIN workers AS w ON ask.worker_id = w.id
    WHERE
        w.directive IS NULL
        AND NOT w.is_draining
        AND (w.quarantined_until IS NULL OR w.quarantined_until < now())
        AND NOT EXISTS (SELECT FROM known WHERE known.n = ask.n)
        AND (SELECT set_config('synchronous_commit', 'off', true)) = 'off'
),
fit AS MATERIALIZED (
    SELECT free.class_ids
    FROM free
    ORDER BY free.n
    LIMIT 1
),
served AS MATERIALIZED (
    SELECT free.*
    FROM free
    INNER JOIN fit ON free.class_ids = fit.class_ids
),
slot AS MATERIALIZED (
    -- The first slot of every worker comes before anybody's second.
    SELECT
        served.worker_id,
        served.claim_id,
        served.n,
        i.i,
        ($5::bytea[])[served.first_token + i.i] AS token_hash,
        row_number() OVER (ORDER BY i.i, served.n) AS place
    FROM served
    CROSS JOIN LATERAL generate_series(1, served.wanted) AS i (i)
),
candidate AS MATERIALIZED (
    SELECT
        head.place_in_table,
        head.task_id,
        head.sort_key
    FROM fit
    CROSS JOIN LATERAL unnest(fit.class_ids) AS c (class_id)
    LEFT JOIN unnest($7::integer[], $8::bigint[]) AS hint (class_id, least_key)
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
                OR r.preferred_worker_id = ANY(ARRAY(SELECT served.worker_id FROM served))
                OR r.ready_at < now() - make_interval(secs => $6)
            )
        ORDER BY r.class_id, r.sort_key, r.task_id
        LIMIT $9
    ) AS head
    ORDER BY head.sort_key, head.task_id
    LIMIT $9
),
picked AS MATERIALIZED (
    SELECT r.ctid AS place_in_table
    FROM candidate AS c
    INNER JOIN task_ready AS r ON c.place_in_table = r.ctid
    ORDER BY c.sort_key, c.task_id
    LIMIT (SELECT count(*) FROM slot)
    FOR UPDATE OF r SKIP LOCKED
),
taken AS (
    DELETE FROM task_ready AS r
    USING picked
    WHERE r.ctid = picked.place_in_table
    RETURNING r.*
),
turn AS MATERIALIZED (
    SELECT
        taken.*,
        row_number() OVER (
            PARTITION BY taken.preferred_worker_id ORDER BY taken.sort_key, taken.task_id
        ) AS i
    FROM taken
),
at_home AS MATERIALIZED (
    SELECT
        turn.task_id,
        slot.place
    FROM turn
    INNER JOIN slot ON turn.preferred_worker_id = slot.worker_id AND turn.i = slot.i
),
anywhere AS (
    SELECT
        turn.task_id,
        row_number() OVER (ORDER BY turn.sort_key, turn.task_id) AS k
    FROM turn
    WHERE NOT EXISTS (SELECT FROM at_home WHERE at_home.task_id = turn.task_id)
),
left_over AS (
    SELECT
        slot.place,
        row_number() OVER (ORDER BY slot.place) AS k
    FROM slot
    WHERE NOT EXISTS (SELECT FROM at_home WHERE at_home.place = slot.place)
),
pair AS (
    SELECT at_home.task_id, at_home.place FROM at_home
    UNION ALL
    SELECT
        anywhere.task_id,
        left_over.place
    FROM anywhere
    INNER JOIN left_over ON anywhere.k = left_over.k
),
lease AS (
    INSERT INTO task_leases (
        task_id, job_id, project_id, worker_id, number, token_hash, claim_id, claim_index,
        class_id, sort_key, failures, resets
    )
    SELECT
        turn.task_id, turn.job_id, turn.project_id, slot.worker_id, turn.attempts + 1,
        slot.token_hash, slot.claim_id, slot.i - 1, turn.class_id, turn.sort_key, turn.failures,
        turn.resets
    FROM pair
    INNER JOIN turn ON pair.task_id = turn.task_id
    INNER JOIN slot ON pair.place = slot.place
    RETURNING
        attempt_id, task_id, job_id, project_id, worker_id, claim_id, class_id, sort_key, number,
        claim_index, token_hash
),
offer AS (
    SELECT
        served.n,
        lease.attempt_id,
        lease.task_id,
        lease.job_id,
        lease.project_id,
        lease.class_id,
        lease.sort_key,
        lease.number,
        lease.claim_index,
        lease.token_hash
    FROM lease
    INNER JOIN served ON lease.worker_id = served.worker_id AND lease.claim_id = served.claim_id
    UNION ALL
    SELECT
        known.n,
        known.attempt_id,
        known.task_id,
        known.job_id,
        known.project_id,
        known.class_id,
        known.sort_key,
        known.number,
        known.claim_index,
        known.token_hash
    FROM known
    WHERE known.started_at IS NULL
)
SELECT
    offer.n,
    offer.attempt_id,
    offer.task_id,
    offer.job_id,
    offer.class_id,
    offer.sort_key,
    offer.number,
    offer.claim_index,
    offer.token_hash,
    turn.engine,
    turn.spec,
    r.scm_auth
FROM offer
-- A repeated claim's offer has no spec here: the task itself has it.
LEFT JOIN turn ON offer.task_id = turn.task_id
INNER JOIN projects AS p ON offer.project_id = p.id
INNER JOIN repos AS r ON p.repo_id = r.id
UNION ALL
SELECT
    free.n,
    NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL
FROM free
WHERE NOT EXISTS (SELECT FROM served WHERE served.n = free.n)
ORDER BY 1, 8
