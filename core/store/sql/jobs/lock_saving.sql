-- Lock a job that is being saved, so that one scheduler ingests it; the others skip it.
SELECT j.id
FROM jobs AS j
WHERE j.id = $1 AND j.phase = 'saving'
FOR NO KEY UPDATE SKIP LOCKED
