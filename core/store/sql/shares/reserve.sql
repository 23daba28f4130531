-- Reserve places in the queue's order for the tasks of a project's next job: charge its clock.
WITH member AS MATERIALIZED (
    SELECT
        p.id AS project_id,
        p.weight,
        o.id AS org_id,
        o.weight AS org_weight
    FROM projects AS p
    INNER JOIN repos AS r ON p.repo_id = r.id
    INNER JOIN teams AS t ON r.team_id = t.id
    INNER JOIN organizations AS o ON t.org_id = o.id
    WHERE p.id = $1
),
queued AS MATERIALIZED (
    SELECT
        c.id,
        EXISTS (
            SELECT
            FROM worker_classes AS wc
            INNER JOIN workers AS w ON wc.worker_id = w.id
            WHERE wc.class_id = c.id AND w.lost_at IS NULL
        ) AS is_served
    FROM capability_classes AS c
    WHERE EXISTS (SELECT FROM task_ready AS r WHERE r.class_id = c.id)
),
head AS (
    SELECT
        first.sort_key + j.priority * $4::bigint AS place,
        queued.is_served
    FROM queued
    CROSS JOIN LATERAL (
        -- More than one: what has a bonus stands before its place.
        SELECT
            r.sort_key,
            r.job_id
        FROM task_ready AS r
        WHERE r.class_id = queued.id
        ORDER BY r.sort_key, r.task_id
        LIMIT 8
    ) AS first
    INNER JOIN jobs AS j ON first.job_id = j.id
),
virtual AS MATERIALIZED (
    SELECT
        greatest(
            -- What nobody can take stands still, and would hold back what others take.
            coalesce(min(head.place) FILTER (WHERE head.is_served), min(head.place), clock.ns),
            clock.ns - ($5::double precision * 1000000000)::bigint
        ) AS place
    FROM (SELECT (extract(EPOCH FROM clock_timestamp()) * 1000000000)::bigint AS ns) AS clock
    LEFT JOIN head ON true
    GROUP BY clock.ns
),
pace AS MATERIALIZED (
    SELECT
        member.project_id,
        member.org_id,
        member.weight,
        virtual.place,
        (
            $3::bigint * (member.weight + coalesce(sum(others.weight), 0)::bigint)
            / (member.org_weight * member.weight)
        ) AS step
    FROM member
    CROSS JOIN virtual
    LEFT JOIN share_clocks AS others
        ON
            member.org_id = others.org_id
            AND others.project_id <> member.project_id
            AND others.last_place > virtual.place
    GROUP BY
        member.project_id, member.org_id, member.weight, member.org_weight, virtual.place
),
charged AS (
    INSERT INTO share_clocks AS c (project_id, org_id, weight, last_place)
    SELECT
        pace.project_id,
        pace.org_id,
        pace.weight,
        pace.place + $2::integer * pace.step
    FROM pace
    ON CONFLICT (project_id) DO UPDATE
    SET
        org_id = excluded.org_id,
        weight = excluded.weight,
        last_place
        = greatest(c.last_place, (SELECT pace.place FROM pace))
        + $2::integer * (SELECT pace.step FROM pace),
        charged_at = excluded.charged_at
    RETURNING last_place
)
SELECT
    charged.last_place - ($2::integer - 1) * pace.step AS first_place,
    pace.step
FROM charged CROSS JOIN pace
