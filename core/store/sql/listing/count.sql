-- How many jobs of a project pass a filter, and where the page begins: the block of ids in which
-- it lies and how many to pass over there. Whole blocks are taken from the counts; a block at the
-- edge of a time range, or with texts that are no label, is walked. Where a part of a number is
-- searched for ($20), which no label decides, the jobs that some labels ($18) stand for are read
-- instead, or where there are too many labels ($19) all blocks.
WITH cell AS (
    SELECT
        c.block,
        c.jobs,
        c.first_created_at >= $6 AND c.last_created_at <= $7
        AND ($8::text IS NULL OR c.creator_id > 0)
        AND ($9::text IS NULL OR c.created_from_id > 0)
        AND ($10::text IS NULL OR c.result_msg_id > 0 AND NOT $19::boolean) AS is_decided
    FROM job_counts AS c
    WHERE
        c.project_id = $1
        AND c.grain = $14::smallint
        AND $2::boolean
        AND $18::text[] IS NULL
        AND c.result_code BETWEEN $4 AND $5
        AND c.last_created_at >= $6
        AND c.first_created_at <= $7
        AND ($11::bigint[] IS NULL OR c.creator_id = ANY($11))
        AND ($12::bigint[] IS NULL OR c.created_from_id = ANY($12))
        AND ($13::bigint[] IS NULL OR c.result_msg_id = ANY($13))
),
block AS MATERIALIZED (
    SELECT
        cell.block AS n,
        sum(cell.jobs)::bigint AS jobs,
        bool_and(cell.is_decided) AS is_decided
    FROM cell
    GROUP BY cell.block
),
found AS (
    SELECT
        block.n,
        block.jobs
    FROM block
    WHERE block.is_decided
    UNION ALL
    SELECT
        block.n,
        walked.jobs
    FROM block
    CROSS JOIN
        LATERAL (
            SELECT count(*) AS jobs
            FROM jobs AS j
            WHERE
                j.project_id = $1
                AND j.phase = 'closed'
                -- As sums: other indexes would read more, of other projects or of these codes.
                AND j.id + 0 >= block.n << $15::integer
                AND j.id + 0 < (block.n + 1) << $15::integer
                AND j.result_code + 0 BETWEEN $4 AND $5
                AND j.created_at BETWEEN $6 AND $7
                AND ($8::text IS NULL OR j.creator ILIKE $8)
                AND ($9::text IS NULL OR j.created_from ILIKE $9)
                AND ($10::text IS NULL OR j.result_msg ILIKE $10)
                AND NOT EXISTS (
                    SELECT
                    FROM uncounted_jobs AS u
                    WHERE u.project_id = j.project_id AND u.job_id = j.id
                )
        ) AS walked
    WHERE NOT block.is_decided
    UNION ALL
    SELECT
        j.id >> $15::integer AS n,
        count(*) AS jobs
    FROM unnest($18::text[]) AS label (value)
    CROSS JOIN
        LATERAL (
            SELECT
                j.id,
                j.project_id,
                j.result_msg,
                j.result_code,
                j.created_at,
                j.creator,
                j.created_from
            FROM jobs AS j
            WHERE
                j.project_id = $1
                AND j.phase = 'closed'
                AND hashtextextended(translate(j.result_msg, '0123456789', '##########'), 0)
                = hashtextextended(label.value, 0)
                -- which costs less than to look at every letter in any case
                AND strpos(j.result_msg, $20) > 0
            OFFSET 0
        ) AS j
    WHERE
        $2::boolean
        AND j.result_msg ILIKE $10
        AND j.result_code BETWEEN $4 AND $5
        AND j.created_at BETWEEN $6 AND $7
        AND ($8::text IS NULL OR j.creator ILIKE $8)
        AND ($9::text IS NULL OR j.created_from ILIKE $9)
        AND NOT EXISTS (
            SELECT
            FROM uncounted_jobs AS u
            WHERE u.project_id = j.project_id AND u.job_id = j.id
        )
    GROUP BY 1
    UNION ALL
    SELECT
        j.id >> $15::integer AS n,
        count(*) AS jobs
    FROM uncounted_jobs AS u
    CROSS JOIN LATERAL (SELECT j.* FROM jobs AS j WHERE j.id = u.job_id LIMIT 1) AS j
    WHERE
        u.project_id = $1
        AND $2::boolean
        AND j.result_code BETWEEN $4 AND $5
        AND j.created_at BETWEEN $6 AND $7
        AND ($8::text IS NULL OR j.creator ILIKE $8)
        AND ($9::text IS NULL OR j.created_from ILIKE $9)
        AND ($10::text IS NULL OR j.result_msg ILIKE $10)
    GROUP BY 1
    UNION ALL
    SELECT
        j.id >> $15::integer AS n,
        count(*) AS jobs
    FROM jobs AS j
    WHERE
        j.project_id = $1
        AND j.ended_at IS NULL
        AND j.state = ANY($3::smallint[])
        AND j.created_at BETWEEN $6 AND $7
        AND ($8::text IS NULL OR j.creator ILIKE $8)
        AND ($9::text IS NULL OR j.created_from ILIKE $9)
    GROUP BY 1
),
summed AS (
    SELECT
        found.n,
        sum(found.jobs)::bigint AS jobs,
        sum(sum(found.jobs)) OVER (ORDER BY found.n DESC)::bigint AS jobs_down_to
    FROM found
    GROUP BY found.n
    HAVING sum(found.jobs) > 0
),
way AS (
    SELECT
        coalesce(sum(c.jobs), 0)::bigint AS closed,
        coalesce(sum(c.jobs) FILTER (WHERE c.result_code BETWEEN $4 AND $5), 0)::bigint AS by_code,
        coalesce(sum(c.jobs) FILTER (WHERE c.creator_id = ANY($11)), 0)::bigint AS by_creator,
        coalesce(sum(c.jobs) FILTER (WHERE c.created_from_id = ANY($12)), 0)::bigint
        AS by_created_from,
        coalesce(sum(c.jobs) FILTER (WHERE c.result_msg_id = ANY($13)), 0)::bigint
        AS by_result_msg
    FROM job_counts AS c
    WHERE c.project_id = $1 AND c.grain = $17::smallint
)
SELECT
    coalesce(sum(summed.jobs), 0)::bigint AS total,
    (min(summed.n) << $15::integer) AS lowest_id,
    ((max(summed.n) FILTER (WHERE summed.jobs_down_to > $16) + 1) << $15::integer) AS below_id,
    coalesce(
        $16 - max(summed.jobs_down_to) FILTER (WHERE summed.jobs_down_to <= $16), $16
    )::bigint AS passed_over,
    array(
        SELECT c.result_code
        FROM job_counts AS c
        WHERE c.project_id = $1 AND c.grain = 0 AND c.result_code BETWEEN $4 AND $5
        UNION
        SELECT j.result_code
        FROM uncounted_jobs AS u
        CROSS JOIN LATERAL (SELECT j.* FROM jobs AS j WHERE j.id = u.job_id LIMIT 1) AS j
        WHERE u.project_id = $1 AND j.result_code BETWEEN $4 AND $5
    ) AS result_codes,
    (SELECT way.closed FROM way) AS closed,
    (SELECT way.by_code FROM way) AS by_code,
    (SELECT way.by_creator FROM way) AS by_creator,
    (SELECT way.by_created_from FROM way) AS by_created_from,
    (SELECT way.by_result_msg FROM way) AS by_result_msg
FROM summed
