-- Return which of these very results were accepted before: the same body again, the same answer.
SELECT asked.n
FROM
    unnest($1::bigint[], $2::bigint[], $3::bytea[], $4::bytea[])
    WITH ORDINALITY AS asked (worker_id, attempt_id, token_hash, body_hash, n)
INNER JOIN task_attempts AS a ON asked.attempt_id = a.attempt_id
WHERE
    a.worker_id = asked.worker_id
    AND a.token_hash = asked.token_hash
    AND a.body_hash = asked.body_hash
