-- Take a worker for live again, note whether it drains, and return what is asked of it.
WITH changed AS (
    UPDATE workers
    SET lost_at = NULL, is_draining = $2
    WHERE id = $1 AND (lost_at IS NOT NULL OR is_draining <> $2)
)
SELECT w.directive FROM workers AS w WHERE w.id = $1
