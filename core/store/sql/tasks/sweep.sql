-- Close what is left of the tasks of closed jobs: ready, pending, offered and running ones.
WITH task AS MATERIALIZED (
    SELECT t.id
    FROM jobs AS j
    -- A job's preparation is its first task.
    INNER JOIN tasks AS t ON j.id = t.job_id AND t.id >= j.prepare_task_id
    -- Not by the phase: indexes of the closed jobs would be read from end to end.
    WHERE j.id = ANY($1::bigint[]) AND j.state = 2
),
ready AS (
    DELETE FROM task_ready AS r
    USING task
    WHERE r.task_id = task.id
    RETURNING r.task_id, r.job_id
),
pending AS (
    DELETE FROM task_pending AS p
    USING task
    WHERE p.task_id = task.id
    RETURNING p.task_id, p.job_id
),
lease AS (
    DELETE FROM task_leases AS l
    USING task
    WHERE l.task_id = task.id
    RETURNING l.*
),
attempt AS (
    INSERT INTO task_attempts (
        task_id, attempt_id, job_id, worker_id, number, token_hash, outcome, reason,
        offered_at, started_at, ended_at
    )
    SELECT
        lease.task_id, lease.attempt_id, lease.job_id, lease.worker_id, lease.number,
        lease.token_hash, 'cancelled', $2, lease.offered_at, lease.started_at,
        -- not the transaction's time, which may lie before the start
        clock_timestamp()
    FROM lease
),
outcome AS (
    INSERT INTO task_outcomes (
        task_id, job_id, outcome, reason, result_code, result_msg, closed_at
    )
    SELECT ended.task_id, ended.job_id, 'cancelled', $2, $3, $4, clock_timestamp()
    FROM (
        SELECT ready.task_id, ready.job_id FROM ready
        UNION ALL
        SELECT pending.task_id, pending.job_id FROM pending
        UNION ALL
        SELECT lease.task_id, lease.job_id FROM lease
    ) AS ended
    RETURNING task_id, job_id
),
written AS (
    INSERT INTO events (kind, job_id, task_id, detail)
    SELECT 'task.closed', outcome.job_id, outcome.task_id, jsonb_build_object('reason', $2::text)
    FROM outcome
)
SELECT DISTINCT lease.worker_id FROM lease
