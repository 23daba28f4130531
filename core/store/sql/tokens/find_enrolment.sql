-- An enrolment token that is good now; a spent one only for what its use began.
SELECT id, name, is_single_use AND used_at IS NOT NULL AS is_spent
FROM tokens
WHERE token_hash = $1
  AND kind = 'enrolment'
  AND revoked_at IS NULL
  AND (expires_at IS NULL OR expires_at > now())
