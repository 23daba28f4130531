-- Return which of these very results were accepted before: the same body again, the same answer.
SELECT asked.n
FROM
    unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[])
    WITH ORDINALITY AS asked (worker_id, attempt_id, token_hash, body_hash, n)
CROSS JOIN LATERAL (
    -- One by one: statistics never make it a walk through the history.
    SELECT
        past.worker_id,
        past.token_hash,
        past.body_hash
    FROM task_attempts AS past
    WHERE past.attempt_id = asked.attempt_id
    LIMIT 1
) AS a
WHERE
    a.worker_id = asked.worker_id
    AND a.token_hash = asked.token_hash
    AND a.body_hash = asked.body_hash
