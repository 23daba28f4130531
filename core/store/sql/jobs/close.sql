-- Close open jobs with a code and a message, whatever their phase (of those given).
WITH closed AS (
    UPDATE jobs
    SET
        phase = 'closed',
        result_code = $2,
        result_msg = $3,
        ended_at = greatest(clock_timestamp(), created_at, started_at),
        open_tasks = 0,
        admission_token = NULL,
        admission_expires_at = NULL,
        remarks = coalesce($4, remarks),
        remarked_by = coalesce($5, remarked_by)
    WHERE id = ANY($1::bigint[]) AND phase = ANY($6::text[])
    RETURNING id, project_id
),
written AS (
    INSERT INTO events (kind, project_id, job_id, actor, detail)
    SELECT
        $7, closed.project_id, closed.id, $5,
        jsonb_build_object('result_code', $2::integer, 'result_msg', $3::text)
    FROM closed
)
SELECT closed.id AS job_id FROM closed
