-- How many bytes of a blob there are; null when there is none.
SELECT position + octet_length(content)
FROM blobs
WHERE task_id = $1 AND attempt_id = $2 AND name = $3
ORDER BY position DESC
LIMIT 1
