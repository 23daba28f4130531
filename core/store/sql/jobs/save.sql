-- Enter saving: every task of the job has closed and it will close with success.
UPDATE jobs
SET phase = 'saving', saving_at = now()
WHERE id = $1 AND phase = 'running' AND open_tasks = 0
RETURNING id, project_id
