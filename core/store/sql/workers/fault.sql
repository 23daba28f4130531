-- Count a fault of each worker whose attempts died of it; too many in a row quarantine the worker.
-- An attempt that began before the last counted fault is part of the same trouble, not a second one.
WITH ended AS MATERIALIZED (
    SELECT
        a.worker_id,
        a.attempt_id,
        a.started_at,
        a.reason,
        count(earlier.attempt_id) AS before_it,
        count(earlier.attempt_id) FILTER (WHERE earlier.worker_id <> a.worker_id) AS elsewhere
    FROM unnest($1::bigint[], $2::bigint[]) AS asked (task_id, attempt_id)
    INNER JOIN task_attempts AS a ON asked.task_id = a.task_id AND asked.attempt_id = a.attempt_id
    LEFT JOIN task_attempts AS earlier
        ON
            a.task_id = earlier.task_id
            AND a.attempt_id > earlier.attempt_id
            AND earlier.reason = ANY($3::text[])
    WHERE a.reason = ANY($3::text[])
    GROUP BY a.task_id, a.attempt_id
),
died AS MATERIALIZED (
    SELECT
        ended.worker_id,
        max(ended.started_at) AS started_at,
        (array_agg(ended.reason ORDER BY ended.attempt_id DESC))[1] AS reason,
        bool_or($4 OR ended.before_it = 0) AS is_first
    FROM ended
    -- A task that failed on other workers too is itself the suspect.
    WHERE $4 OR ended.elsewhere = 0
    GROUP BY ended.worker_id
),
worker AS MATERIALIZED (
    SELECT
        w.id,
        died.reason,
        CASE
            WHEN
                w.quarantined_until IS NULL
                AND w.first_fault_at < now() - make_interval(secs => $6)
                THEN 1
            ELSE least(w.faults + 1, 1000)
        END AS faults
    FROM died
    INNER JOIN workers AS w ON died.worker_id = w.id
    WHERE
        (w.last_fault_at IS NULL OR w.last_fault_at < died.started_at)
        -- One task's failures in a row are one fault, but for a worker that is on probation.
        AND (died.is_first OR w.quarantined_until IS NOT NULL)
    ORDER BY w.id
    FOR NO KEY UPDATE OF w
),
counted AS (
    UPDATE workers AS w
    SET
        faults = worker.faults,
        first_fault_at = CASE WHEN worker.faults = 1 THEN now() ELSE w.first_fault_at END,
        last_fault_at = clock_timestamp(),
        quarantine_reason = CASE
            WHEN worker.faults >= $5 THEN worker.reason ELSE w.quarantine_reason
        END,
        quarantined_until = CASE
            WHEN worker.faults >= $5
                THEN
                    clock_timestamp()
                    + make_interval(secs => least($8, $7 * 2 ^ least(worker.faults - $5, 30)))
            ELSE w.quarantined_until
        END
    FROM worker
    WHERE w.id = worker.id
    RETURNING
        w.id,
        w.name,
        w.faults,
        w.faults >= $5 AS is_quarantined,
        worker.reason,
        extract(EPOCH FROM w.quarantined_until - w.last_fault_at)::double precision AS quarantine_s
),
written AS (
    INSERT INTO events (kind, worker_id, detail)
    SELECT
        'worker.quarantined', counted.id,
        jsonb_build_object(
            'reason', counted.reason, 'faults', counted.faults, 'for_s', counted.quarantine_s
        )
    FROM counted
    WHERE counted.is_quarantined
)
SELECT counted.* FROM counted
