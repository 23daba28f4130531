-- Forget the faults of workers whose attempts came to a good end, and with them a quarantine.
WITH good AS MATERIALIZED (
    SELECT
        a.worker_id,
        max(a.started_at) AS started_at
    FROM unnest($1::bigint[], $2::bigint[]) AS asked (task_id, attempt_id)
    INNER JOIN task_attempts AS a ON asked.task_id = a.task_id AND asked.attempt_id = a.attempt_id
    GROUP BY a.worker_id
),
suspect AS MATERIALIZED (
    SELECT
        w.id,
        w.quarantined_until IS NOT NULL AS was_quarantined
    FROM good
    INNER JOIN workers AS w ON good.worker_id = w.id
    WHERE
        w.faults > 0
        -- What began before the quarantine proves nothing against it.
        AND (w.quarantined_until IS NULL OR w.last_fault_at < good.started_at)
    ORDER BY w.id
    FOR NO KEY UPDATE OF w
),
cleared AS (
    UPDATE workers AS w
    SET
        faults = 0,
        first_fault_at = NULL,
        last_fault_at = NULL,
        quarantined_until = NULL,
        quarantine_reason = NULL
    FROM suspect
    WHERE w.id = suspect.id
    RETURNING w.id, w.name, suspect.was_quarantined
),
written AS (
    INSERT INTO events (kind, worker_id)
    SELECT 'worker.quarantine_lifted', cleared.id
    FROM cleared
    WHERE cleared.was_quarantined
)
SELECT cleared.* FROM cleared
