-- Enter an artifact of an attempt, in the place of an earlier one of that name; no row: the
-- attempt has as many as it may.
INSERT INTO artifacts (task_id, attempt_id, name, size_bytes, sha256)
SELECT $1, $2, $3, $4, $5
WHERE (
    SELECT count(*) FROM artifacts WHERE task_id = $1 AND attempt_id = $2 AND name <> $3
) < $6
ON CONFLICT (task_id, attempt_id, name) DO UPDATE
SET size_bytes = excluded.size_bytes, sha256 = excluded.sha256, created_at = now()
RETURNING name
