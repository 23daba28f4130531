-- Vacuum the hot tables that nobody else is vacuuming; their empty ends stay, to be filled again.
VACUUM (SKIP_LOCKED, TRUNCATE FALSE)
task_ready, task_leases, task_pending, attempt_progress, worker_beats, uncounted_jobs
