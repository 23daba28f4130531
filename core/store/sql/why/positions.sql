-- Return the places of tasks in the queues of the workers that fit them; none: beyond the bound.
-- A queue is that of the classes which share a worker with the task's own.
WITH mine AS MATERIALIZED (
    SELECT
        r.task_id,
        r.class_id,
        r.sort_key
    FROM task_ready AS r
    WHERE r.task_id = ANY($1::bigint[])
),
last AS MATERIALIZED (
    SELECT
        mine.class_id,
        max(mine.sort_key) AS sort_key
    FROM mine
    GROUP BY mine.class_id
),
busy AS MATERIALIZED (
    SELECT c.id
    FROM capability_classes AS c
    WHERE EXISTS (SELECT FROM task_ready AS r WHERE r.class_id = c.id)
),
queue AS MATERIALIZED (
    SELECT
        last.class_id AS of_class_id,
        last.sort_key AS last_key,
        busy.id AS class_id
    FROM last
    CROSS JOIN busy
    WHERE
        busy.id = last.class_id
        OR EXISTS (
            SELECT
            FROM worker_classes AS own
            INNER JOIN worker_classes AS other ON own.worker_id = other.worker_id
            WHERE own.class_id = last.class_id AND other.class_id = busy.id
        )
),
line AS (
    SELECT
        last.class_id,
        ahead.task_id,
        row_number() OVER (
            PARTITION BY last.class_id ORDER BY ahead.sort_key, ahead.task_id
        ) AS place
    FROM last
    CROSS JOIN LATERAL (
        SELECT
            head.task_id,
            head.sort_key
        FROM queue
        CROSS JOIN LATERAL (
            SELECT
                r.task_id,
                r.sort_key
            FROM task_ready AS r
            WHERE r.class_id = queue.class_id AND r.sort_key <= queue.last_key
            ORDER BY r.sort_key, r.task_id
            LIMIT $2
        ) AS head
        WHERE queue.of_class_id = last.class_id
        ORDER BY head.sort_key, head.task_id
        LIMIT $2
    ) AS ahead
)
SELECT
    line.task_id,
    line.place
FROM line
INNER JOIN mine ON line.task_id = mine.task_id AND line.class_id = mine.class_id
