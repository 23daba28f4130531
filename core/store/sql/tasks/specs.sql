-- Return what tasks ask of a worker.
SELECT t.id, t.engine, t.spec
FROM tasks AS t
WHERE t.id = ANY($1::bigint[])
