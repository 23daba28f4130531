-- Return what every worker can do.
SELECT w.id, w.engines, w.tags, w.isolation, w.lost_at IS NULL AS is_live
FROM workers AS w
ORDER BY w.id
