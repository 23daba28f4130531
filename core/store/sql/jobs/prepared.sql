-- Return jobs whose preparation has ended, with its result and the worker that has the sources: one
-- of each project before anybody's second.
WITH found AS MATERIALIZED (
    SELECT
        j.id,
        j.prepare_task_id,
        row_number() OVER (PARTITION BY j.project_id ORDER BY j.id) AS turn
    FROM jobs AS j
    CROSS JOIN LATERAL (
        -- One by one: statistics never make it a walk through the history.
        SELECT
        FROM task_outcomes AS ended
        WHERE ended.task_id = j.prepare_task_id
        LIMIT 1
    ) AS o
    WHERE j.phase = 'preparing'
),
first AS MATERIALIZED (
    SELECT found.*
    FROM found
    ORDER BY found.turn, found.id
    LIMIT $1
)
SELECT
    first.id AS job_id,
    o.outcome,
    o.result_code,
    o.result_msg,
    o.result,
    a.worker_id
FROM first
CROSS JOIN LATERAL (
    SELECT ended.*
    FROM task_outcomes AS ended
    WHERE ended.task_id = first.prepare_task_id
    LIMIT 1
) AS o
LEFT JOIN LATERAL (
    SELECT past.worker_id
    FROM task_attempts AS past
    WHERE past.task_id = o.task_id AND past.attempt_id = o.attempt_id
    LIMIT 1
) AS a ON true
ORDER BY first.turn, first.id
