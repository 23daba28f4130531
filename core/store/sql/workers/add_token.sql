-- Give a worker a token; what it replaces (null: all) stays valid for a moment, expired ones go.
WITH expired AS (
    DELETE FROM worker_tokens AS t
    WHERE t.worker_id = $1 AND t.expires_at < now() AND t.token_hash <> $2
),
shortened AS (
    UPDATE worker_tokens AS t
    SET expires_at = least(t.expires_at, now() + make_interval(secs => $4))
    WHERE
        t.worker_id = $1
        AND t.expires_at >= now()
        AND t.token_hash <> $2
        AND ($5::bytea IS NULL OR t.token_hash = $5)
)
INSERT INTO worker_tokens (token_hash, worker_id, expires_at)
VALUES ($2, $1, now() + make_interval(secs => $3))
ON CONFLICT (token_hash) DO NOTHING
RETURNING worker_id
