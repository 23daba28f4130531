-- Keep the lease of a running attempt from ending until the transaction does; no row: it is lost.
SELECT task_id
FROM task_leases
WHERE attempt_id = $1 AND token_hash = $2 AND worker_id = $3 AND started_at IS NOT NULL
FOR NO KEY UPDATE
