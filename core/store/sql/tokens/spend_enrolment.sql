-- Use an enrolment token; no row: it is not good, or a single use was made.
UPDATE tokens
SET used_at = now()
WHERE id = $1
  AND kind = 'enrolment'
  AND revoked_at IS NULL
  AND (expires_at IS NULL OR expires_at > now())
  AND NOT (is_single_use AND used_at IS NOT NULL)
RETURNING id
