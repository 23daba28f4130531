-- Return how jobs ended, of those that have.
SELECT
    j.id AS job_id,
    j.state,
    j.result_code,
    j.result_msg
FROM jobs AS j
-- Not by the phase: indexes of the closed jobs would be read from end to end.
WHERE j.id = ANY($1::bigint[]) AND j.state = 2
