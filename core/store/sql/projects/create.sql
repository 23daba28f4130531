-- Register a project with an active scheme of the repository; no row: it exists, or no such scheme.
INSERT INTO projects (repo_id, scheme_id, branch, scan_path, created_from, creator)
SELECT $1, s.id, $3, $4, $5, $6
FROM schemes s
WHERE s.repo_id = $1 AND s.id = $2 AND s.status = 1
ON CONFLICT (repo_id, branch, scheme_id, scan_path) DO NOTHING
RETURNING id
