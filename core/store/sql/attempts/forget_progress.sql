-- Drop the progress of attempts that are over.
DELETE FROM attempt_progress AS p
WHERE
    p.seen_at < now() - interval '1 minute'
    AND NOT EXISTS (SELECT FROM task_leases AS l WHERE l.attempt_id = p.attempt_id)
