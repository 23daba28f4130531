-- Return the seconds until the next pending task is due.
SELECT extract(EPOCH FROM min(p.not_before) - now())::double precision FROM task_pending AS p
