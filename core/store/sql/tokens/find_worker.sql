-- The worker a token belongs to, while the token lives.
SELECT worker_id
FROM worker_tokens
WHERE token_hash = $1 AND expires_at > now()
