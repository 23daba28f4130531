-- Delete the closed jobs that are too old among the next by id, with scans, findings and counts;
-- not what a project's next scan builds on.
WITH looked_at AS MATERIALIZED (
    SELECT
        j.id,
        j.project_id,
        j.phase,
        j.created_at,
        j.ended_at
    FROM jobs AS j
    WHERE j.id > $2
    ORDER BY j.id
    LIMIT $3
),
old AS MATERIALIZED (
    SELECT
        j.id,
        s.id AS scan_id
    FROM looked_at AS j
    INNER JOIN scans AS s ON j.id = s.job_id
    WHERE
        j.phase = 'closed'
        AND j.ended_at < now() - $1::interval
        AND NOT EXISTS (
            SELECT
            FROM projects AS p
            WHERE p.id = j.project_id AND p.base_job_id = j.id
        )
        AND NOT EXISTS (
            SELECT
            FROM jobs AS later
            INNER JOIN scans AS later_scan ON later.id = later_scan.job_id
            WHERE
                later.project_id = j.project_id
                AND later.ended_at IS NULL
                AND later_scan.base_scan_id = s.id
        )
        AND NOT EXISTS (
            SELECT
            FROM uncounted_jobs AS u
            WHERE u.project_id = j.project_id AND u.job_id = j.id
        )
),
finding AS (
    DELETE FROM findings AS f
    USING old
    WHERE f.scan_id = old.scan_id
),
scan AS (
    DELETE FROM scans AS s
    USING old
    WHERE s.id = old.scan_id
),
job AS (
    DELETE FROM jobs AS j
    USING old
    WHERE j.id = old.id
    RETURNING j.*
),
labelled AS (
    SELECT
        job.project_id,
        job.id,
        job.result_code,
        coalesce(creator.id, 0) AS creator_id,
        coalesce(created_from.id, 0) AS created_from_id,
        coalesce(result_msg.id, 0) AS result_msg_id
    FROM job
    LEFT JOIN job_labels AS creator
        ON
            job.project_id = creator.project_id
            AND creator.kind = 'creator'
            AND md5(creator.value) = md5(job.creator)
    LEFT JOIN job_labels AS created_from
        ON
            job.project_id = created_from.project_id
            AND created_from.kind = 'created_from'
            AND md5(created_from.value) = md5(job.created_from)
    LEFT JOIN job_labels AS result_msg
        ON
            job.project_id = result_msg.project_id
            AND result_msg.kind = 'result_msg'
            AND md5(result_msg.value) = md5(translate(job.result_msg, '0123456789', '##########'))
),
gone AS MATERIALIZED (
    SELECT
        labelled.project_id,
        grain.n AS grain,
        CASE grain.n WHEN 1 THEN labelled.id >> 14 WHEN 3 THEN labelled.id >> 17 ELSE 0 END
        AS block,
        labelled.result_code,
        CASE WHEN grain.n >= 2 THEN labelled.creator_id ELSE 0 END AS creator_id,
        CASE WHEN grain.n >= 2 THEN labelled.created_from_id ELSE 0 END AS created_from_id,
        CASE WHEN grain.n >= 2 THEN labelled.result_msg_id ELSE 0 END AS result_msg_id,
        count(*) AS jobs
    FROM labelled CROSS JOIN generate_series(0, 3) AS grain (n)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
),
emptied AS (
    DELETE FROM job_counts AS c
    USING gone
    WHERE
        c.project_id = gone.project_id
        AND c.grain = gone.grain
        AND c.block = gone.block
        AND c.result_code = gone.result_code
        AND c.creator_id = gone.creator_id
        AND c.created_from_id = gone.created_from_id
        AND c.result_msg_id = gone.result_msg_id
        AND c.jobs = gone.jobs
),
lessened AS (
    UPDATE job_counts AS c
    SET jobs = c.jobs - gone.jobs
    FROM gone
    WHERE
        c.project_id = gone.project_id
        AND c.grain = gone.grain
        AND c.block = gone.block
        AND c.result_code = gone.result_code
        AND c.creator_id = gone.creator_id
        AND c.created_from_id = gone.created_from_id
        AND c.result_msg_id = gone.result_msg_id
        AND c.jobs > gone.jobs
)
SELECT
    (SELECT count(*) FROM old) AS forgotten,
    -- null: whatever comes is not so old
    (
        SELECT max(looked_at.id)
        FROM looked_at
        HAVING count(*) = $3 AND max(looked_at.created_at) < now() - $1::interval
    ) AS go_on_after
