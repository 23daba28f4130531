-- Record how far running attempts have come, each of the worker that says so.
INSERT INTO attempt_progress (attempt_id, phase, files_done, files_planned)
SELECT DISTINCT ON (beat.attempt_id)
    beat.attempt_id,
    beat.phase,
    beat.files_done,
    beat.files_planned
FROM
    unnest($1::bigint[], $2::bigint[], $3::text[], $4::bigint[], $5::bigint[])
    AS beat (worker_id, attempt_id, phase, files_done, files_planned)
INNER JOIN task_leases AS l ON beat.attempt_id = l.attempt_id AND beat.worker_id = l.worker_id
ORDER BY beat.attempt_id
ON CONFLICT (attempt_id) DO UPDATE
SET
    phase = excluded.phase,
    files_done = greatest(attempt_progress.files_done, excluded.files_done),
    files_planned = excluded.files_planned,
    seen_at = now()
WHERE
    (attempt_progress.phase, attempt_progress.files_done, attempt_progress.files_planned)
    IS DISTINCT FROM (excluded.phase, excluded.files_done, excluded.files_planned)
RETURNING attempt_id
