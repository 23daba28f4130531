-- The scheme of a repository that has this name.
SELECT id FROM schemes WHERE repo_id = $1 AND name = $2
