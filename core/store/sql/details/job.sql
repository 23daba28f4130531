-- Jobs of projects, each with its scan, its project, its counted tasks and the project's other open
-- jobs, all of one moment; `n` says which of those asked for.
SELECT
    asked.n,
    j.id,
    s.id AS scan_id,
    j.state,
    j.result_code,
    j.result_msg,
    j.is_incremental,
    j.is_forced,
    j.created_at,
    j.started_at,
    j.ended_at,
    j.expires_at,
    j.task_num,
    j.open_tasks,
    j.remarks,
    j.remarked_by,
    j.created_from,
    j.creator,
    p.id AS project_id,
    p.branch,
    p.repo_id,
    p.scheme_id,
    r.scm_url,
    s.scan_type,
    s.full_reason,
    s.revision,
    s.base_revision,
    s.base_scan_id,
    s.engines,
    s.code_line_num,
    s.comment_line_num,
    s.blank_line_num,
    s.total_line_num,
    now() AS as_of,
    array(
        SELECT
            (
                t.id,
                t.module,
                t.engine,
                o.outcome,
                o.reason,
                o.result_code,
                o.result_msg,
                o.closed_at,
                o.result,
                l.started_at,
                least(tried.first_started_at, l.started_at),
                coalesce(l.number, tried.number, 0),
                w.name,
                p.files_done,
                p.files_planned,
                EXISTS (
                    SELECT
                    FROM artifacts AS a
                    WHERE
                        a.task_id = t.id
                        AND a.attempt_id = o.attempt_id
                        AND a.name = 'result.json'
                ),
                l.attempt_id IS NOT NULL OR tried.number IS NOT NULL
            )
        FROM tasks AS t
        LEFT JOIN task_outcomes AS o ON t.id = o.task_id
        LEFT JOIN task_leases AS l ON t.id = l.task_id
        LEFT JOIN attempt_progress AS p ON l.attempt_id = p.attempt_id
        LEFT JOIN LATERAL (
            SELECT
                a.number,
                a.worker_id,
                min(a.started_at) OVER () AS first_started_at
            FROM task_attempts AS a
            WHERE a.task_id = t.id
            ORDER BY a.number DESC, a.attempt_id DESC
            LIMIT 1
        ) AS tried ON true
        LEFT JOIN workers AS w ON w.id = coalesce(l.worker_id, tried.worker_id)
        WHERE
            t.job_id = j.id
            AND t.kind = 'engine'
            -- Its first task: the history before that need not be looked at.
            AND t.id >= coalesce(j.prepare_task_id, 0)
        ORDER BY t.id
        LIMIT 1000
    ) AS tasks,
    array(
        SELECT (other.id, other_scan.id, other.state)
        FROM jobs AS other
        INNER JOIN scans AS other_scan ON other.id = other_scan.job_id
        WHERE other.project_id = j.project_id AND other.id <> j.id AND other.ended_at IS NULL
        ORDER BY other.id
        LIMIT 1000
    ) AS co_jobs
FROM unnest($1::bigint[], $2::bigint[]) WITH ORDINALITY AS asked (job_id, project_id, n)
INNER JOIN jobs AS j ON asked.job_id = j.id AND asked.project_id = j.project_id
INNER JOIN scans AS s ON j.id = s.job_id
INNER JOIN projects AS p ON j.project_id = p.id
INNER JOIN repos AS r ON p.repo_id = r.id
