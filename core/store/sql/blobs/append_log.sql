-- Write a chunk where the log of a running attempt ends, if its lease is held, within the cap.
-- One row in any case but a lost lease: whether it was written and how long the log is now.
WITH held AS (
    SELECT l.task_id, l.attempt_id, coalesce(ending.at, 0) AS size
    FROM task_leases l
    LEFT JOIN LATERAL (
        SELECT b.position + octet_length(b.content) AS at
        FROM blobs b
        WHERE b.task_id = l.task_id AND b.attempt_id = l.attempt_id AND b.name = 'log'
        ORDER BY b.position DESC
        LIMIT 1
    ) ending ON true
    WHERE l.attempt_id = $1 AND l.token_hash = $2 AND l.worker_id = $3
        AND l.started_at IS NOT NULL
),
written AS (
    INSERT INTO blobs (task_id, attempt_id, name, position, content)
    SELECT task_id, attempt_id, 'log', $4, $5
    FROM held
    WHERE size = $4 AND $4 + octet_length($5::bytea) <= $6 AND octet_length($5::bytea) > 0
    -- the same chunk twice at once: one is written, the other reads its place in the answer
    ON CONFLICT DO NOTHING
    RETURNING position + octet_length(content) AS size
)
SELECT
    (SELECT size FROM written) IS NOT NULL AS is_written,
    coalesce((SELECT size FROM written), size) AS size
FROM held
