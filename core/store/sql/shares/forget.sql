-- Forget the clocks of projects of which nothing waits: what they used is held against nobody.
DELETE FROM share_clocks AS c
WHERE
    -- Not one that is being charged: its job is not to be seen yet.
    c.charged_at < now() - interval '10 seconds'
    AND NOT EXISTS (
        SELECT
        FROM jobs AS j
        WHERE
            j.project_id = c.project_id
            AND j.ended_at IS NULL
            AND j.phase IN ('preparing', 'queued', 'running')
    )
