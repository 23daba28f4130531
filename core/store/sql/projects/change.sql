-- Change a project's status.
UPDATE projects SET status = coalesce($2, status) WHERE id = $1 RETURNING id
