-- Note that workers live. The reaper locks these rows before it takes leases.
INSERT INTO worker_beats (worker_id, seen_at)
SELECT DISTINCT
    w.worker_id,
    clock_timestamp()
FROM unnest($1::bigint[]) AS w (worker_id)
ORDER BY w.worker_id
ON CONFLICT (worker_id) DO UPDATE SET seen_at = excluded.seen_at
