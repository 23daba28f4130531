-- Return what live workers offer, of those with a tag (null: all).
SELECT w.engines
FROM workers AS w
WHERE w.lost_at IS NULL AND ($1::text IS NULL OR $1 = ANY(w.tags))
ORDER BY w.id
