-- Return what an idempotency key of the last 24 hours answered.
SELECT
    k.job_id,
    k.scan_id,
    k.fingerprint
FROM idempotency_keys AS k
WHERE k.token_id = $1 AND k.key = $2 AND k.created_at > now() - interval '24 hours'
