-- Return closed jobs that still have tasks: a claim was under way while they closed.
SELECT
    j.id AS job_id,
    j.result_code,
    j.result_msg
FROM jobs AS j
WHERE
    j.phase = 'closed'
    AND j.id IN (
        SELECT r.job_id FROM task_ready AS r
        UNION
        SELECT p.job_id FROM task_pending AS p
        UNION
        SELECT l.job_id FROM task_leases AS l
    )
LIMIT $1
