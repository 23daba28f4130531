-- Return how long engines usually run in a project: the medians of its last closed jobs.
SELECT
    run.engine,
    percentile_cont(0.5) WITHIN GROUP (ORDER BY run.run_s) AS median_s,
    count(*) AS samples
FROM (
    SELECT
        t.engine,
        extract(EPOCH FROM a.ended_at - a.started_at)::double precision AS run_s
    FROM (
        SELECT
            j.id,
            j.prepare_task_id
        FROM jobs AS j
        WHERE j.project_id = $1 AND j.id <> $2 AND j.phase = 'closed'
        ORDER BY j.id DESC
        LIMIT $4
    ) AS past
    INNER JOIN tasks AS t ON past.id = t.job_id AND past.prepare_task_id <= t.id
    INNER JOIN task_outcomes AS o ON t.id = o.task_id
    INNER JOIN task_attempts AS a ON o.task_id = a.task_id AND o.attempt_id = a.attempt_id
    WHERE t.engine = ANY($3::text[]) AND o.outcome = 'succeeded'
) AS run
GROUP BY run.engine
