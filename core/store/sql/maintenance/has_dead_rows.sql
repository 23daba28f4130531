-- Tell whether autovacuum does not keep up with a hot table.
SELECT EXISTS (
    SELECT
    FROM pg_stat_user_tables AS t
    WHERE
        t.relid = ANY(array[
            'task_ready', 'task_leases', 'task_pending', 'attempt_progress', 'worker_beats',
            'uncounted_jobs'
        ]::regclass[])
        AND t.n_dead_tup > $1
        AND coalesce(greatest(t.last_vacuum, t.last_autovacuum), '-infinity')
        < now() - interval '15 s'
)
