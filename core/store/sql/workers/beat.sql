-- Note that a worker lives. The reaper locks this row before it takes leases.
INSERT INTO worker_beats (worker_id, seen_at)
VALUES ($1, clock_timestamp())
ON CONFLICT (worker_id) DO UPDATE SET seen_at = clock_timestamp()
