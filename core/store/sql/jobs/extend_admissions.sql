-- Keep the admissions of jobs that are still being resolved; guarded by each one's token.
UPDATE jobs
SET admission_expires_at = now() + make_interval(secs => $3)
WHERE id = ANY($1::bigint[]) AND phase = 'resolving' AND admission_token = ANY($2::uuid[])
RETURNING id
