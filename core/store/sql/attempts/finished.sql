-- Return whether this very result was accepted before: the same body again gets the same answer.
SELECT a.body_hash = $4 AS is_same
FROM task_attempts AS a
WHERE
    a.attempt_id = $2
    AND a.worker_id = $1
    AND a.token_hash = $3
    AND a.body_hash IS NOT NULL
