-- Write a worker; who comes with a known instance key gets its old identity.
INSERT INTO workers (name, instance_hash, tags, engines, slots, isolation, version)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (instance_hash) DO UPDATE
SET
    name = excluded.name,
    tags = excluded.tags,
    engines = excluded.engines,
    slots = excluded.slots,
    isolation = excluded.isolation,
    version = excluded.version,
    is_draining = false,
    -- A drain ends with the process it was for; a pause lasts until somebody ends it.
    directive = nullif(workers.directive, 'drain'),
    registered_at = now(),
    lost_at = NULL
RETURNING id
