-- The next chunks of a blob from the one that holds a byte, up to a number of bytes, at least one.
SELECT position, content
FROM (
    SELECT
        position,
        content,
        sum(octet_length(content)) OVER (ORDER BY position) - octet_length(content) AS before
    FROM (
        SELECT position, content
        FROM blobs
        WHERE task_id = $1 AND attempt_id = $2 AND name = $3
            AND position >= (
                SELECT max(first.position)
                FROM blobs first
                WHERE first.task_id = $1 AND first.attempt_id = $2 AND first.name = $3
                    AND first.position <= $4
            )
        ORDER BY position
        LIMIT 256
    ) next
) counted
WHERE before < $5
ORDER BY position
