-- Return to the queue, uncounted, offers that nobody started in time.
WITH late AS MATERIALIZED (
    SELECT l.attempt_id
    FROM task_leases AS l
    WHERE l.started_at IS NULL AND l.offered_at < now() - make_interval(secs => $1)
    ORDER BY l.attempt_id
    LIMIT $2
    FOR UPDATE SKIP LOCKED
),
lease AS (
    DELETE FROM task_leases AS l
    USING late
    WHERE l.attempt_id = late.attempt_id
    RETURNING l.*
),
ready AS (
    INSERT INTO task_ready (
        task_id, job_id, project_id, class_id, sort_key, attempts, failures, resets
    )
    SELECT
        lease.task_id, lease.job_id, lease.project_id, lease.class_id, lease.sort_key,
        -- never begun: no attempt to count
        lease.number - 1, lease.failures, lease.resets
    FROM lease
),
written AS (
    INSERT INTO events (kind, job_id, task_id, attempt_id, worker_id)
    SELECT 'task.requeued', lease.job_id, lease.task_id, lease.attempt_id, lease.worker_id
    FROM lease
)
SELECT lease.attempt_id FROM lease
