-- Take over jobs whose scheduler died while it resolved their revision.
UPDATE jobs
SET
    admission_token = $1,
    admission_expires_at = now() + make_interval(secs => $2)
WHERE phase = 'resolving' AND id IN (
    SELECT j.id
    FROM jobs AS j
    WHERE j.phase = 'resolving' AND j.admission_expires_at < now()
    ORDER BY j.id
    LIMIT $3
    FOR NO KEY UPDATE OF j SKIP LOCKED
)
RETURNING id
