-- The project of a repository with this branch, scheme and path.
SELECT id FROM projects WHERE repo_id = $1 AND scheme_id = $2 AND branch = $3 AND scan_path = $4
