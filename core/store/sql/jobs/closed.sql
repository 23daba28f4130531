-- Return how jobs ended, of those that have.
SELECT
    j.id AS job_id,
    j.state,
    j.result_code,
    j.result_msg
FROM jobs AS j
WHERE j.id = ANY($1::bigint[]) AND j.phase = 'closed'
