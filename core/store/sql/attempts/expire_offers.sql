-- Return to the queue, uncounted, offers that nobody started in time.
WITH lease AS (
    DELETE FROM task_leases AS l
    WHERE l.attempt_id IN (
        SELECT late.attempt_id
        FROM task_leases AS late
        WHERE late.started_at IS NULL AND late.offered_at < now() - make_interval(secs => $1)
        ORDER BY late.attempt_id
        LIMIT $2
        FOR UPDATE SKIP LOCKED
    )
    RETURNING l.*
),
ready AS (
    INSERT INTO task_ready (task_id, job_id, class_id, sort_key, failures, resets)
    SELECT lease.task_id, lease.job_id, lease.class_id, lease.sort_key, lease.failures, lease.resets
    FROM lease
),
written AS (
    INSERT INTO events (kind, job_id, task_id, attempt_id, worker_id)
    SELECT 'task.requeued', lease.job_id, lease.task_id, lease.attempt_id, lease.worker_id
    FROM lease
)
SELECT lease.attempt_id FROM lease
