-- Let another scheduler take over at once what this one was resolving.
UPDATE jobs
SET admission_expires_at = now()
WHERE id = ANY($1::bigint[]) AND phase = 'resolving' AND admission_token = ANY($2::uuid[])
RETURNING id
