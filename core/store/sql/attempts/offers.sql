-- Return what a claim was offered and has not started yet: the answer, also of a repeated claim.
SELECT
    l.attempt_id,
    l.task_id,
    l.job_id,
    l.number,
    l.claim_index,
    l.token_hash,
    t.kind,
    t.engine,
    t.spec,
    r.scm_auth
FROM task_leases AS l
INNER JOIN tasks AS t ON l.task_id = t.id
INNER JOIN jobs AS j ON l.job_id = j.id
INNER JOIN projects AS p ON j.project_id = p.id
INNER JOIN repos AS r ON p.repo_id = r.id
WHERE l.worker_id = $1 AND l.claim_id = $2 AND l.started_at IS NULL
ORDER BY l.claim_index
