-- Return the capability classes of requirements in their order, null where there is none yet.
SELECT c.id
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[])
    WITH ORDINALITY AS wanted (engine, version_range, tag, isolation, place)
LEFT JOIN capability_classes AS c
    ON c.engine = wanted.engine AND c.version_range = wanted.version_range
    AND c.tag = wanted.tag AND c.isolation = wanted.isolation
ORDER BY wanted.place
