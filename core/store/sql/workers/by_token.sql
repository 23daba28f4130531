-- Return the workers that tokens belong to, of the tokens that are valid.
SELECT
    t.token_hash,
    w.id,
    w.name,
    w.directive,
    w.quarantined_until IS NOT NULL AS is_suspended
FROM worker_tokens AS t
INNER JOIN workers AS w ON t.worker_id = w.id
WHERE t.token_hash = ANY($1::bytea[]) AND t.expires_at > now()
