-- Keep what an idempotency key answered; an expired one is taken over.
INSERT INTO idempotency_keys (token_id, key, project_id, fingerprint, job_id, scan_id)
VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (token_id, key) DO UPDATE
SET
    project_id = excluded.project_id,
    fingerprint = excluded.fingerprint,
    job_id = excluded.job_id,
    scan_id = excluded.scan_id,
    created_at = now()
WHERE idempotency_keys.created_at <= now() - interval '24 hours'
RETURNING job_id, scan_id
