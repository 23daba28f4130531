-- Tell whether any task is ready, whomever it fits.
SELECT EXISTS (SELECT FROM task_ready)
