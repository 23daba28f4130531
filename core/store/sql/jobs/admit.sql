-- Admit waiting jobs: forced ones at once, the others when every earlier job of the project is closed.
UPDATE jobs
SET
    phase = 'resolving',
    admission_token = $1,
    admission_expires_at = now() + make_interval(secs => $2)
WHERE phase = 'waiting' AND id IN (
    SELECT j.id
    FROM jobs AS j
    WHERE
        j.phase = 'waiting'
        AND (
            j.is_forced
            OR NOT EXISTS (
                SELECT FROM jobs AS earlier
                WHERE
                    earlier.project_id = j.project_id
                    AND earlier.id < j.id
                    AND earlier.phase <> 'closed'
            )
        )
    ORDER BY j.id
    LIMIT $3
    FOR NO KEY UPDATE OF j SKIP LOCKED
)
RETURNING id
