-- Drop idempotency keys that no longer answer.
DELETE FROM idempotency_keys AS k WHERE k.created_at < now() - interval '24 hours'
