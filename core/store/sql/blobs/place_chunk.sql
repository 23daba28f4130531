-- Write one chunk of a blob.
INSERT INTO blobs (task_id, attempt_id, name, position, content) VALUES ($1, $2, $3, $4, $5)
