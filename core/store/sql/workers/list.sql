-- Return all workers with what they are doing.
SELECT
    w.id,
    w.name,
    w.tags,
    w.engines,
    w.slots,
    w.isolation,
    w.version,
    w.directive,
    w.is_draining,
    w.registered_at,
    w.lost_at,
    w.faults,
    w.quarantined_until,
    w.quarantine_reason,
    w.quarantined_until >= now() AS is_quarantined,
    b.seen_at,
    coalesce(l.attempt_ids, '{}') AS attempt_ids
FROM workers AS w
LEFT JOIN worker_beats AS b ON w.id = b.worker_id
LEFT JOIN LATERAL (
    SELECT array_agg(tl.attempt_id ORDER BY tl.attempt_id) AS attempt_ids
    FROM task_leases AS tl
    WHERE tl.worker_id = w.id
) AS l ON true
ORDER BY w.lost_at IS NOT NULL, w.name, w.id
LIMIT $1
