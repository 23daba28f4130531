-- Return the capability class of a requirement, null where there is none yet.
SELECT c.id
FROM capability_classes AS c
WHERE c.engine = $1 AND c.version_range = $2 AND c.tag = $3 AND c.isolation = $4
