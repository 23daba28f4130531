-- Return how near live workers come to a requirement: by version, tag and isolation, how many.
SELECT
    coalesce(offered.version, '') AS version,
    $2::text = '' OR $2::text = ANY(w.tags) AS has_tag,
    w.isolation,
    count(*) AS workers
FROM workers AS w
LEFT JOIN LATERAL (
    SELECT engine ->> 'version' AS version
    FROM jsonb_array_elements(w.engines) AS engine
    WHERE engine ->> 'name' = $1::text
    LIMIT 1
) AS offered ON true
WHERE w.lost_at IS NULL
GROUP BY offered.version, has_tag, w.isolation
ORDER BY workers DESC, version
LIMIT 1000
