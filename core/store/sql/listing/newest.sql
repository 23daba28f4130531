-- The newest jobs of each project asked for ($1), closed ones or not ($2) and open ones in some
-- states ($3, a bit each), and how many there are in all; one row each at least, `n` says whose.
-- For pages near the front: it walks what is passed over.
SELECT
    asked.n,
    counted.total,
    page.*
FROM
    unnest($1::bigint[], $2::boolean[], $3::smallint[], $4::integer[], $5::integer[])
    WITH ORDINALITY
    AS asked (project_id, wants_closed, states, most, passed_over, n)
CROSS JOIN
    LATERAL (
        SELECT
            (
                SELECT count(*)
                FROM jobs AS j
                WHERE
                    j.project_id = asked.project_id
                    AND j.ended_at IS NULL
                    AND asked.states >> j.state & 1 = 1
            )
            + (
                SELECT count(*)
                FROM uncounted_jobs AS u
                WHERE u.project_id = asked.project_id AND asked.wants_closed
            )
            + (
                SELECT coalesce(sum(c.jobs), 0)
                FROM job_counts AS c
                WHERE c.project_id = asked.project_id AND c.grain = 0 AND asked.wants_closed
            )::bigint AS total
        -- Once a list, and not once a row.
        OFFSET 0
    ) AS counted
LEFT JOIN
    LATERAL (
        SELECT line.*
        FROM (
            SELECT found.id
            FROM (
                (
                    SELECT closed.id
                    FROM (
                        SELECT j.id
                        FROM jobs AS j
                        WHERE
                            j.project_id = asked.project_id
                            AND j.phase = 'closed'
                            AND asked.wants_closed
                        ORDER BY j.id + 0 DESC
                        -- Never reached; a number the planner knows: it walks down the index.
                        LIMIT 3000
                    ) AS closed
                    LIMIT asked.most + asked.passed_over
                )
                UNION ALL
                (
                    SELECT j.id
                    FROM jobs AS j
                    WHERE
                        j.project_id = asked.project_id
                        AND j.ended_at IS NULL
                        AND asked.states >> j.state & 1 = 1
                    ORDER BY j.id DESC
                    LIMIT asked.most + asked.passed_over
                )
            ) AS found
            ORDER BY found.id DESC
            LIMIT asked.most OFFSET asked.passed_over
        ) AS wanted
        -- The limit keeps the planner from reading all of a table at once.
        CROSS JOIN
            LATERAL (
                SELECT
                    j.id,
                    s.id AS scan_id,
                    j.state,
                    j.result_code,
                    j.result_msg,
                    s.code_line_num,
                    s.comment_line_num,
                    s.blank_line_num,
                    s.total_line_num,
                    j.created_at,
                    j.started_at,
                    j.ended_at,
                    j.creator,
                    j.created_from
                FROM jobs AS j
                INNER JOIN scans AS s ON j.id = s.job_id
                WHERE j.id = wanted.id
                LIMIT 1
            ) AS line
    ) AS page ON true
ORDER BY asked.n, page.id DESC
