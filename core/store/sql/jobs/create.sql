-- Write jobs, their scans and events; the projects are locked before the ids are taken, so that
-- the ids of a project's jobs are in the order of their commits. No row: the project takes no scan.
WITH asked AS MATERIALIZED (
    SELECT a.*
    FROM
        unnest(
            $1::bigint[], $2::boolean[], $3::boolean[], $4::text[], $5::text[], $6::text[],
            $7::double precision[]
        ) WITH ORDINALITY
        AS a (
            project_id, is_incremental, is_forced, revision, created_from, creator,
            queue_limit_s, n
        )
),
project AS MATERIALIZED (
    SELECT
        p.id,
        s.priority,
        s.job_runtime_limit_minutes
    FROM projects AS p
    INNER JOIN schemes AS s ON p.scheme_id = s.id
    WHERE
        p.id IN (SELECT asked.project_id FROM asked)
        AND p.status = 1
        AND s.status = 1
    ORDER BY p.id
    FOR NO KEY UPDATE OF p
),
locked AS MATERIALIZED (
    -- Read to its end first: no id is taken before the last project is locked.
    SELECT count(*) AS projects FROM project
),
numbered AS MATERIALIZED (
    SELECT
        asked.*,
        project.priority,
        project.job_runtime_limit_minutes * 60 AS runtime_limit_s,
        nextval(pg_get_serial_sequence('jobs', 'id')) AS job_id,
        nextval(pg_get_serial_sequence('scans', 'id')) AS scan_id
    FROM locked
    CROSS JOIN asked
    INNER JOIN project ON asked.project_id = project.id
    ORDER BY asked.n
),
job AS (
    INSERT INTO jobs (
        id, project_id, is_incremental, is_forced, revision, created_from, creator, priority,
        expires_at, runtime_limit_s
    )
    OVERRIDING SYSTEM VALUE
    SELECT
        numbered.job_id, numbered.project_id, numbered.is_incremental, numbered.is_forced,
        numbered.revision, numbered.created_from, numbered.creator, numbered.priority,
        now() + make_interval(secs => numbered.queue_limit_s), numbered.runtime_limit_s
    FROM numbered
),
scan AS (
    INSERT INTO scans (id, job_id, project_id, scan_type, full_reason)
    OVERRIDING SYSTEM VALUE
    SELECT
        numbered.scan_id,
        numbered.job_id,
        numbered.project_id,
        CASE WHEN numbered.is_incremental THEN 1 ELSE 2 END,
        CASE WHEN NOT numbered.is_incremental THEN 'requested' END
    FROM numbered
),
written AS (
    INSERT INTO events (kind, project_id, job_id, actor, detail)
    SELECT
        'job.created', numbered.project_id, numbered.job_id, numbered.creator,
        jsonb_build_object(
            'created_from', numbered.created_from,
            'incr_scan', numbered.is_incremental,
            'force_create', numbered.is_forced
        )
    FROM numbered
)
SELECT
    numbered.n,
    numbered.job_id,
    numbered.scan_id
FROM numbered
ORDER BY numbered.n
