-- Count closed jobs that were not counted, in all grains; return how many.
WITH taken AS (
    DELETE FROM uncounted_jobs AS u
    USING unnest($1::bigint[], $2::bigint[]) AS batch (project_id, job_id)
    WHERE u.project_id = batch.project_id AND u.job_id = batch.job_id
    RETURNING u.project_id, u.job_id
),
job AS MATERIALIZED (
    SELECT
        j.project_id,
        j.id,
        j.result_code,
        j.created_at,
        coalesce(creator.id, 0) AS creator_id,
        coalesce(created_from.id, 0) AS created_from_id,
        coalesce(result_msg.id, 0) AS result_msg_id
    FROM taken
    INNER JOIN jobs AS j ON taken.job_id = j.id
    LEFT JOIN job_labels AS creator
        ON
            j.project_id = creator.project_id
            AND creator.kind = 'creator'
            AND md5(creator.value) = md5(j.creator)
    LEFT JOIN job_labels AS created_from
        ON
            j.project_id = created_from.project_id
            AND created_from.kind = 'created_from'
            AND md5(created_from.value) = md5(j.created_from)
    LEFT JOIN job_labels AS result_msg
        ON
            j.project_id = result_msg.project_id
            AND result_msg.kind = 'result_msg'
            AND md5(result_msg.value) = md5(translate(j.result_msg, '0123456789', '##########'))
),
counted AS (
    INSERT INTO job_counts AS c (
        project_id, grain, block, result_code, creator_id, created_from_id, result_msg_id, jobs,
        first_created_at, last_created_at
    )
    SELECT
        job.project_id,
        grain.n,
        CASE grain.n WHEN 1 THEN job.id >> 14 WHEN 3 THEN job.id >> 17 ELSE 0 END AS block,
        job.result_code,
        CASE WHEN grain.n >= 2 THEN job.creator_id ELSE 0 END AS creator_id,
        CASE WHEN grain.n >= 2 THEN job.created_from_id ELSE 0 END AS created_from_id,
        CASE WHEN grain.n >= 2 THEN job.result_msg_id ELSE 0 END AS result_msg_id,
        count(*),
        min(job.created_at),
        max(job.created_at)
    FROM job CROSS JOIN generate_series(0, 3) AS grain (n)
    GROUP BY 1, 2, 3, 4, 5, 6, 7
    ON CONFLICT (
        project_id, grain, block, result_code, creator_id, created_from_id, result_msg_id
    ) DO UPDATE
    SET
        jobs = c.jobs + excluded.jobs,
        first_created_at = least(c.first_created_at, excluded.first_created_at),
        last_created_at = greatest(c.last_created_at, excluded.last_created_at)
)
SELECT count(*) FROM taken
