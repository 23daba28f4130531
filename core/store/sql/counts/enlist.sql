-- Take the next uncounted jobs and list the labels they bring; a project has 10,000 of a kind at
-- most, what comes later stays unlisted for good.
WITH batch AS MATERIALIZED (
    SELECT
        u.project_id,
        u.job_id
    FROM uncounted_jobs AS u
    ORDER BY u.project_id, u.job_id
    LIMIT $1
),
seen AS (
    SELECT DISTINCT
        j.project_id,
        label.kind,
        label.value
    FROM batch
    INNER JOIN jobs AS j ON batch.job_id = j.id
    CROSS JOIN
        LATERAL (
            VALUES
            ('creator', j.creator),
            ('created_from', j.created_from),
            ('result_msg', translate(j.result_msg, '0123456789', '##########'))
        ) AS label (kind, value)
),
fresh AS MATERIALIZED (
    SELECT
        seen.project_id,
        seen.kind,
        seen.value
    FROM seen
    WHERE NOT EXISTS (
        SELECT
        FROM job_labels AS l
        WHERE
            l.project_id = seen.project_id
            AND l.kind = seen.kind
            AND md5(l.value) = md5(seen.value)
    )
),
listed AS (
    INSERT INTO job_labels (project_id, kind, value)
    SELECT
        fresh.project_id,
        fresh.kind,
        fresh.value
    FROM fresh
    WHERE (
        SELECT count(*)
        FROM job_labels AS l
        WHERE l.project_id = fresh.project_id AND l.kind = fresh.kind
    ) < 10000
)
SELECT
    batch.project_id,
    batch.job_id
FROM batch
