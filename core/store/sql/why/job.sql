-- Return a job with what says why it is where it is, and the moment the answer is of.
SELECT
    j.id,
    s.id AS scan_id,
    j.project_id,
    j.phase,
    j.is_forced,
    j.expires_at,
    j.saving_at,
    j.ended_at,
    j.result_code,
    j.result_msg,
    j.admitted_by,
    j.admitted_at,
    j.admission_expires_at,
    j.prepare_task_id,
    now() AS at
FROM jobs AS j
INNER JOIN scans AS s ON j.id = s.job_id
WHERE j.id = $1
