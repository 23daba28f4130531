-- Return the worker whose registration bought this token: the same registration, once more.
SELECT w.id
FROM workers AS w
INNER JOIN worker_tokens AS t ON w.id = t.worker_id
WHERE w.instance_hash = $1 AND t.token_hash = $2
