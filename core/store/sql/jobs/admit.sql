-- Admit waiting jobs in the queue's order: forced ones at once, else the first open job of a project.
WITH RECURSIVE start AS MATERIALIZED (
    -- Anywhere: where more projects wait than are looked at, each has its turn.
    SELECT (hashtextextended($1::uuid::text, 0) & 9223372036854775807) % max(p.id) AS project_id
    FROM projects AS p
),
above AS (
    -- From project to project through the index of waiting jobs: one probe each.
    (
        SELECT j.project_id
        FROM jobs AS j
        WHERE j.phase = 'waiting' AND j.ended_at IS NULL AND j.project_id > (SELECT start.project_id FROM start)
        ORDER BY j.project_id
        LIMIT 1
    )
    UNION ALL
    SELECT following.project_id
    FROM above
    CROSS JOIN LATERAL (
        SELECT j.project_id
        FROM jobs AS j
        WHERE j.phase = 'waiting' AND j.ended_at IS NULL AND j.project_id > above.project_id
        ORDER BY j.project_id
        LIMIT 1
    ) AS following
),
below AS (
    (
        SELECT j.project_id
        FROM jobs AS j
        WHERE j.phase = 'waiting' AND j.ended_at IS NULL AND j.project_id <= (SELECT start.project_id FROM start)
        ORDER BY j.project_id
        LIMIT 1
    )
    UNION ALL
    SELECT following.project_id
    FROM below
    CROSS JOIN LATERAL (
        SELECT j.project_id
        FROM jobs AS j
        WHERE
            j.phase = 'waiting'
            AND j.ended_at IS NULL
            AND j.project_id > below.project_id
            AND j.project_id <= (SELECT start.project_id FROM start)
        ORDER BY j.project_id
        LIMIT 1
    ) AS following
),
project AS MATERIALIZED (
    SELECT walked.project_id
    FROM (
        SELECT above.project_id FROM above
        UNION ALL
        SELECT below.project_id FROM below
    ) AS walked
    LIMIT 1000
),
candidate AS (
    SELECT
        head.id,
        head.project_id,
        head.priority,
        0 AS earlier
    FROM project
    CROSS JOIN LATERAL (
        SELECT
            j.id,
            j.project_id,
            j.priority,
            j.phase,
            j.is_forced
        FROM jobs AS j
        WHERE j.project_id = project.project_id AND j.ended_at IS NULL
        ORDER BY j.id
        LIMIT 1
    ) AS head
    WHERE head.phase = 'waiting' AND NOT head.is_forced
    UNION ALL
    SELECT
        forced.id,
        forced.project_id,
        forced.priority,
        row_number() OVER (PARTITION BY forced.project_id ORDER BY forced.id) AS earlier
    FROM project
    CROSS JOIN LATERAL (
        SELECT
            j.id,
            j.project_id,
            j.priority
        FROM jobs AS j
        WHERE
            j.project_id = project.project_id
            AND j.phase = 'waiting'
            AND j.ended_at IS NULL
            AND j.is_forced
        ORDER BY j.id
        LIMIT $3 + 64
    ) AS forced
),
virtual AS MATERIALIZED (
    SELECT
        coalesce(
            min(first.sort_key), (extract(EPOCH FROM now()) * 1000000000)::bigint
        ) AS place
    FROM capability_classes AS c
    CROSS JOIN LATERAL (
        SELECT r.sort_key
        FROM task_ready AS r
        WHERE r.class_id = c.id
        ORDER BY r.sort_key, r.task_id
        LIMIT 1
    ) AS first
),
turn AS MATERIALIZED (
    SELECT
        candidate.id,
        -- As its first task would be placed now.
        greatest(c.last_place, virtual.place)
        + candidate.earlier * $4::bigint
        - candidate.priority * $5::bigint AS place
    FROM candidate
    CROSS JOIN virtual
    LEFT JOIN share_clocks AS c ON candidate.project_id = c.project_id
    ORDER BY place, candidate.id
    -- More than are wanted: another scheduler may hold the first ones.
    LIMIT $3 + 64
),
picked AS MATERIALIZED (
    SELECT j.id
    FROM turn
    INNER JOIN jobs AS j ON turn.id = j.id
    WHERE j.phase = 'waiting'
    ORDER BY turn.place, turn.id
    LIMIT $3
    FOR NO KEY UPDATE OF j SKIP LOCKED
)
UPDATE jobs
SET
    phase = 'resolving',
    admission_token = $1,
    admission_expires_at = now() + make_interval(secs => $2),
    admitted_by = $6,
    admitted_at = now()
FROM picked
WHERE jobs.id = picked.id AND jobs.phase = 'waiting'
RETURNING jobs.id
