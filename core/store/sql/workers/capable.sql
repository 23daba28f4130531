-- Return what every worker can do.
SELECT w.id, w.engines, w.tags, w.isolation
FROM workers AS w
ORDER BY w.id
