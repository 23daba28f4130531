-- Ask a worker to drain or pause, or to go on; to go on also ends its quarantine.
WITH worker AS (
    UPDATE workers
    SET
        directive = $2,
        faults = CASE WHEN $2::text IS NULL THEN 0 ELSE faults END,
        first_fault_at = CASE WHEN $2::text IS NULL THEN NULL ELSE first_fault_at END,
        last_fault_at = CASE WHEN $2::text IS NULL THEN NULL ELSE last_fault_at END,
        quarantined_until = CASE WHEN $2::text IS NULL THEN NULL ELSE quarantined_until END,
        quarantine_reason = CASE WHEN $2::text IS NULL THEN NULL ELSE quarantine_reason END
    WHERE id = $1
    RETURNING id
),
written AS (
    INSERT INTO events (kind, worker_id, actor, detail)
    SELECT 'worker.directed', worker.id, $3, jsonb_build_object('directive', $2::text)
    FROM worker
)
SELECT worker.id FROM worker
