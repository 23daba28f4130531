-- Drop worker tokens that no longer open anything.
DELETE FROM worker_tokens AS t WHERE t.expires_at < now() - interval '1 hour'
