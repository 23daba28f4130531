-- The repository's default scheme.
SELECT id FROM schemes WHERE repo_id = $1 AND is_default
