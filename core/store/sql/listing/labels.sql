-- The labels of a kind that contain a pattern. Without id: those of jobs that are not counted yet.
-- With 0: a project that has more labels than are listed has jobs that no label here stands for.
SELECT
    l.id,
    l.value
FROM job_labels AS l
WHERE l.project_id = $1 AND l.kind = $2 AND l.value ILIKE $3
UNION ALL
SELECT DISTINCT
    NULL::bigint AS id,
    fresh.value
FROM (
    SELECT
        CASE $2
            WHEN 'creator' THEN j.creator
            WHEN 'created_from' THEN j.created_from
            ELSE translate(j.result_msg, '0123456789', '##########')
        END AS value
    FROM uncounted_jobs AS u
    CROSS JOIN LATERAL (SELECT j.* FROM jobs AS j WHERE j.id = u.job_id LIMIT 1) AS j
    WHERE u.project_id = $1
) AS fresh
WHERE fresh.value ILIKE $3
UNION ALL
SELECT
    0 AS id,
    NULL AS value
WHERE (
    SELECT count(*)
    FROM (
        SELECT
        FROM job_labels AS l
        WHERE l.project_id = $1 AND l.kind = $2
        LIMIT 10000
    ) AS listed
) >= 10000
