-- Return jobs that have been saved for longer than allowed.
SELECT j.id AS job_id
FROM jobs AS j
WHERE j.phase = 'saving' AND j.saving_at < now() - make_interval(secs => $1)
ORDER BY j.id
LIMIT $2
