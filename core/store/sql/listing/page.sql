-- One page of the jobs that pass a filter, by the way ($15) that reads the fewest of the others:
-- 0 down the ids, 1 by result code ($16), 2 to 4 by the texts ($17) of creator, created_from or
-- result_msg, with a number ($18) in it. Ids from $11, below $12, of which the first $14 are passed over.
-- What is written as a sum keeps the planner from indexes that would read more, of other projects
-- or of these codes.
WITH found AS (
    (
        SELECT j.id
        FROM jobs AS j
        WHERE
            j.project_id = $1
            AND j.phase = 'closed'
            AND j.id + 0 >= $11
            AND j.id + 0 < $12
            AND j.result_code + 0 BETWEEN $4 AND $5
            AND j.created_at BETWEEN $6 AND $7
            AND ($8::text IS NULL OR j.creator ILIKE $8)
            AND ($9::text IS NULL OR j.created_from ILIKE $9)
            AND ($10::text IS NULL OR j.result_msg ILIKE $10)
            AND $2::boolean
            AND $15::integer = 0
        ORDER BY j.id + 0 DESC
        LIMIT $13::bigint + $14::bigint
    )
    UNION ALL
    (
        SELECT newest.id
        FROM unnest($16::integer[]) AS label (value)
        CROSS JOIN
            LATERAL (
                SELECT j.id
                FROM jobs AS j
                WHERE
                    j.project_id = $1
                    AND j.phase = 'closed'
                    AND j.id >= $11
                    AND j.id < $12
                    AND j.result_code + 0 BETWEEN $4 AND $5
                    AND j.created_at BETWEEN $6 AND $7
                    AND ($8::text IS NULL OR j.creator ILIKE $8)
                    AND ($9::text IS NULL OR j.created_from ILIKE $9)
                    AND ($10::text IS NULL OR j.result_msg ILIKE $10)
                    AND j.result_code = label.value
                ORDER BY j.id DESC
                LIMIT $13::bigint + $14::bigint
            ) AS newest
        WHERE $2::boolean AND $15 = 1
    )
    UNION ALL
    (
        SELECT newest.id
        FROM unnest($17::text[]) AS label (value)
        CROSS JOIN
            LATERAL (
                SELECT j.id
                FROM jobs AS j
                WHERE
                    j.project_id = $1
                    AND j.phase = 'closed'
                    AND j.id >= $11
                    AND j.id < $12
                    AND j.result_code + 0 BETWEEN $4 AND $5
                    AND j.created_at BETWEEN $6 AND $7
                    AND ($8::text IS NULL OR j.creator ILIKE $8)
                    AND ($9::text IS NULL OR j.created_from ILIKE $9)
                    AND ($10::text IS NULL OR j.result_msg ILIKE $10)
                    AND hashtextextended(j.creator, 0) = hashtextextended(label.value, 0)
                    AND j.creator = label.value
                ORDER BY j.id DESC
                LIMIT $13::bigint + $14::bigint
            ) AS newest
        WHERE $2::boolean AND $15 = 2
    )
    UNION ALL
    (
        SELECT newest.id
        FROM unnest($17::text[]) AS label (value)
        CROSS JOIN
            LATERAL (
                SELECT j.id
                FROM jobs AS j
                WHERE
                    j.project_id = $1
                    AND j.phase = 'closed'
                    AND j.id >= $11
                    AND j.id < $12
                    AND j.result_code + 0 BETWEEN $4 AND $5
                    AND j.created_at BETWEEN $6 AND $7
                    AND ($8::text IS NULL OR j.creator ILIKE $8)
                    AND ($9::text IS NULL OR j.created_from ILIKE $9)
                    AND ($10::text IS NULL OR j.result_msg ILIKE $10)
                    AND hashtextextended(j.created_from, 0) = hashtextextended(label.value, 0)
                    AND j.created_from = label.value
                ORDER BY j.id DESC
                LIMIT $13::bigint + $14::bigint
            ) AS newest
        WHERE $2::boolean AND $15 = 3
    )
    UNION ALL
    (
        SELECT newest.id
        FROM unnest($17::text[]) AS label (value)
        CROSS JOIN
            LATERAL (
                SELECT j.id
                FROM jobs AS j
                WHERE
                    j.project_id = $1
                    AND j.phase = 'closed'
                    AND j.id >= $11
                    AND j.id < $12
                    AND j.result_code + 0 BETWEEN $4 AND $5
                    AND j.created_at BETWEEN $6 AND $7
                    AND ($8::text IS NULL OR j.creator ILIKE $8)
                    AND ($9::text IS NULL OR j.created_from ILIKE $9)
                    AND strpos(j.result_msg, $18) > 0
                    AND j.result_msg ILIKE $10
                    AND hashtextextended(translate(j.result_msg, '0123456789', '##########'), 0)
                    = hashtextextended(label.value, 0)
                ORDER BY j.id DESC
                LIMIT $13::bigint + $14::bigint
            ) AS newest
        WHERE $2::boolean AND $15 = 4
    )
    UNION ALL
    (
        SELECT j.id
        FROM jobs AS j
        WHERE
            j.project_id = $1
            AND j.ended_at IS NULL
            AND j.id >= $11
            AND j.id < $12
            AND j.state = ANY($3::smallint[])
            AND j.created_at BETWEEN $6 AND $7
            AND ($8::text IS NULL OR j.creator ILIKE $8)
            AND ($9::text IS NULL OR j.created_from ILIKE $9)
        ORDER BY j.id DESC
        LIMIT $13::bigint + $14::bigint
    )
),
wanted AS (
    SELECT found.id
    FROM found
    ORDER BY found.id DESC
    LIMIT $13::bigint OFFSET $14::bigint
)
SELECT line.*
FROM wanted
-- The limits here and elsewhere in lists keep the planner from reading all of a table at once.
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
ORDER BY line.id DESC
