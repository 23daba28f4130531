-- Tell whether a task's id is of a range of the history that was dropped.
SELECT
    $1::bigint <= s.last_value
    AND to_regclass('tasks_p' || $1::bigint / 1000000) IS NULL
FROM tasks_id_seq AS s
