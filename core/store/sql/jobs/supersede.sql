-- Close every open job of the project that is older than one that is being saved.
WITH closed AS (
    UPDATE jobs
    SET
        phase = 'closed',
        result_code = 2,
        result_msg = $3,
        ended_at = greatest(clock_timestamp(), created_at, started_at),
        open_tasks = 0,
        admission_token = NULL,
        admission_expires_at = NULL
    WHERE project_id = $1 AND id < $2 AND ended_at IS NULL AND (phase <> 'closed') IS TRUE
    RETURNING id, project_id
),
written AS (
    INSERT INTO events (kind, project_id, job_id, detail)
    SELECT
        'job.superseded', closed.project_id, closed.id,
        jsonb_build_object('by_job_id', $2::bigint)
    FROM closed
)
SELECT closed.id AS job_id FROM closed
