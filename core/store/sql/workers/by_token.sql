-- Return the worker a token belongs to, while it is valid.
SELECT
    w.id,
    w.name,
    w.directive
FROM worker_tokens AS t
INNER JOIN workers AS w ON t.worker_id = w.id
WHERE t.token_hash = $1 AND t.expires_at > now()
