-- Return every capability class.
SELECT c.id, c.engine, c.version_range, c.tag, c.isolation
FROM capability_classes AS c
ORDER BY c.id
