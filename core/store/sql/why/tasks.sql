-- Return the tasks of a job, its preparation first, each with the place it is in and what is there.
SELECT
    t.id,
    t.kind,
    t.engine,
    t.class_id,
    o.task_id IS NOT NULL AS is_closed,
    o.result_code,
    o.result_msg,
    o.closed_at,
    r.task_id IS NOT NULL AS is_ready,
    p.reason AS pending_reason,
    p.not_before,
    p.failures,
    p.resets,
    l.worker_id,
    l.offered_at,
    l.started_at,
    w.name AS worker,
    w.lost_at,
    -- As the reaper takes it after a crash of the database: seen when it first looks.
    coalesce(b.seen_at, now()) AS seen_at,
    progress.phase AS step,
    progress.files_done,
    progress.files_planned
FROM tasks AS t
LEFT JOIN task_outcomes AS o ON t.id = o.task_id
LEFT JOIN task_ready AS r ON t.id = r.task_id
LEFT JOIN task_pending AS p ON t.id = p.task_id
LEFT JOIN task_leases AS l ON t.id = l.task_id
LEFT JOIN workers AS w ON l.worker_id = w.id
LEFT JOIN worker_beats AS b ON l.worker_id = b.worker_id
LEFT JOIN attempt_progress AS progress ON l.attempt_id = progress.attempt_id
-- A job's preparation is its first task.
WHERE t.job_id = $1 AND t.id >= $2
ORDER BY t.id
LIMIT $3
