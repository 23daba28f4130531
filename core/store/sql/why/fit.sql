-- Return what capability classes require, how many workers fit each in which state, and their slots.
SELECT
    c.id AS class_id,
    c.engine,
    c.version_range,
    c.tag,
    c.isolation,
    count(*) FILTER (WHERE fit.state = 'lost') AS lost,
    count(*) FILTER (WHERE fit.state = 'draining') AS draining,
    count(*) FILTER (WHERE fit.state = 'paused') AS paused,
    count(*) FILTER (WHERE fit.state = 'quarantined') AS quarantined,
    count(*) FILTER (WHERE fit.state = 'live') AS live,
    coalesce(sum(fit.slots) FILTER (WHERE fit.state = 'live'), 0) AS slots,
    coalesce(sum(greatest(fit.slots - fit.held, 0)) FILTER (WHERE fit.state = 'live'), 0) AS free
FROM capability_classes AS c
LEFT JOIN LATERAL (
    SELECT
        w.slots,
        CASE
            WHEN w.lost_at IS NOT NULL THEN 'lost'
            WHEN w.is_draining OR w.directive = 'drain' THEN 'draining'
            WHEN w.directive = 'pause' THEN 'paused'
            WHEN w.quarantined_until >= now() THEN 'quarantined'
            ELSE 'live'
        END AS state,
        (SELECT count(*) FROM task_leases AS l WHERE l.worker_id = w.id) AS held
    FROM worker_classes AS wc
    INNER JOIN workers AS w ON wc.worker_id = w.id
    WHERE wc.class_id = c.id
) AS fit ON true
WHERE c.id = ANY($1::integer[])
GROUP BY c.id
