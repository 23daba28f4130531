-- Take workers for live again, and note which of them drain.
UPDATE workers AS w
SET lost_at = NULL, is_draining = b.is_draining
FROM unnest($1::bigint[], $2::boolean[]) AS b (worker_id, is_draining)
WHERE w.id = b.worker_id AND (w.lost_at IS NOT NULL OR w.is_draining <> b.is_draining)
