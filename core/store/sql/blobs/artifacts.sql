-- The artifacts of an attempt.
SELECT name, size_bytes, sha256
FROM artifacts
WHERE task_id = $1 AND attempt_id = $2
ORDER BY name
