-- Return the capability class of a requirement, made where it is new.
WITH made AS (
    INSERT INTO capability_classes (engine, version_range, tag, isolation)
    VALUES ($1, $2, $3, $4)
    ON CONFLICT (engine, version_range, tag, isolation) DO NOTHING
    RETURNING id
)
SELECT made.id, true AS is_new FROM made
UNION ALL
SELECT c.id, false AS is_new
FROM capability_classes AS c
WHERE c.engine = $1 AND c.version_range = $2 AND c.tag = $3 AND c.isolation = $4
LIMIT 1
