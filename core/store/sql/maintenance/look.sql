-- Return in how many seconds each loop of a scheduler may find work; null: not before it is told.
SELECT
    least(
        (
            SELECT 0
            FROM jobs AS j
            WHERE j.phase = 'waiting' AND j.ended_at IS NULL
            LIMIT 1
        ),
        (
            SELECT extract(EPOCH FROM min(j.admission_expires_at) - now())
            FROM jobs AS j
            WHERE j.phase = 'resolving'
        )
    )::double precision AS admitter,
    (
        SELECT 0
        FROM jobs AS j
        INNER JOIN task_outcomes AS o ON j.prepare_task_id = o.task_id
        WHERE j.phase = 'preparing'
        LIMIT 1
    )::double precision AS planner,
    (
        SELECT 0
        FROM jobs AS j
        -- Some task of it has closed: that may decide about the others.
        WHERE j.phase = 'saving' OR (j.phase = 'running' AND j.open_tasks < j.task_num)
        LIMIT 1
    )::double precision AS settler,
    least(
        (
            SELECT extract(EPOCH FROM min(p.not_before) - now())
            FROM task_pending AS p
        ),
        (
            SELECT 0
            FROM share_clocks AS c
            LIMIT 1
        )
    )::double precision AS promoter,
    least(
        (
            SELECT
                $1 + extract(
                    EPOCH FROM
                    min(
                        coalesce(
                            -- as workers/assume_beats has it
                            b.seen_at, greatest(pg_postmaster_start_time(), w.registered_at)
                        )
                    ) - clock_timestamp()
                )
            FROM workers AS w
            LEFT JOIN worker_beats AS b ON w.id = b.worker_id
            WHERE
                w.lost_at IS NULL
                OR EXISTS (SELECT FROM task_leases AS l WHERE l.worker_id = w.id)
        ),
        (
            SELECT $2 + extract(EPOCH FROM min(l.offered_at) - now())
            FROM task_leases AS l
            WHERE l.started_at IS NULL
        )
    )::double precision AS reaper,
    (
        SELECT
            CASE
                WHEN
                    EXISTS (SELECT FROM task_leases)
                    OR EXISTS (SELECT FROM task_ready)
                    OR EXISTS (SELECT FROM task_pending)
                    OR EXISTS (SELECT FROM attempt_progress)
                    THEN 0
            END
    )::double precision AS sweeper,
    least(
        (
            SELECT extract(EPOCH FROM min(j.expires_at) - now())
            FROM jobs AS j
            WHERE j.ended_at IS NULL AND j.saving_at IS NULL
        ),
        (
            SELECT $3 + extract(EPOCH FROM min(j.saving_at) - now())
            FROM jobs AS j
            WHERE j.phase = 'saving'
        )
    )::double precision AS expirer,
    (
        SELECT 0
        FROM uncounted_jobs AS u
        LIMIT 1
    )::double precision AS tallier,
    (
        -- as maintenance/has_dead_rows has it
        SELECT 0
        FROM
            unnest(array[
                'task_ready', 'task_leases', 'task_pending', 'attempt_progress', 'worker_beats',
                'uncounted_jobs'
            ]::regclass[]) AS t (relid)
        WHERE
            pg_stat_get_dead_tuples(t.relid) > $4
            AND coalesce(
                greatest(
                    pg_stat_get_last_vacuum_time(t.relid),
                    pg_stat_get_last_autovacuum_time(t.relid)
                ),
                '-infinity'
            ) < now() - interval '15 s'
        LIMIT 1
    )::double precision AS vacuumer
