-- Write a chunk where the log of a running attempt ends, if its lease is held, within the cap.
-- One row in any case but a lost lease: whether it was written and how long the log is now.
WITH grown AS (
    UPDATE task_leases AS l
    SET log_bytes = l.log_bytes + octet_length($5::bytea)
    WHERE
        l.attempt_id = $1
        AND l.token_hash = $2
        AND l.worker_id = $3
        AND l.started_at IS NOT NULL
        -- the same chunk twice at once: one is written, the other finds the log longer
        AND l.log_bytes = $4
        AND $4 + octet_length($5::bytea) <= $6
        AND octet_length($5::bytea) > 0
    RETURNING l.task_id, l.attempt_id, l.log_bytes
),
written AS (
    INSERT INTO blobs (task_id, attempt_id, name, position, content)
    SELECT grown.task_id, grown.attempt_id, 'log', $4, $5
    FROM grown
)
SELECT
    true AS is_written,
    grown.log_bytes AS size
FROM grown
UNION ALL
SELECT
    false AS is_written,
    l.log_bytes AS size
FROM task_leases AS l
WHERE
    l.attempt_id = $1
    AND l.token_hash = $2
    AND l.worker_id = $3
    AND l.started_at IS NOT NULL
    AND NOT EXISTS (SELECT FROM grown)
