-- Take over jobs whose scheduler died while it resolved their revision.
WITH abandoned AS MATERIALIZED (
    SELECT j.id
    FROM jobs AS j
    WHERE j.phase = 'resolving' AND j.admission_expires_at < now()
    ORDER BY j.id
    LIMIT $3
    FOR NO KEY UPDATE OF j SKIP LOCKED
)
UPDATE jobs
SET
    admission_token = $1,
    admission_expires_at = now() + make_interval(secs => $2),
    admitted_by = $4,
    admitted_at = now()
FROM abandoned
WHERE jobs.id = abandoned.id AND jobs.phase = 'resolving'
RETURNING jobs.id
