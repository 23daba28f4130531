-- Change what was given. Credentials never follow the repository to another address by themselves.
UPDATE repos
SET name = coalesce($2, name),
    scm_url = coalesce($3, scm_url),
    scm_auth = CASE WHEN $4::boolean THEN $5::bytea ELSE scm_auth END
WHERE id = $1 AND ($4::boolean OR scm_auth IS NULL OR coalesce($3, scm_url) = scm_url)
RETURNING id
