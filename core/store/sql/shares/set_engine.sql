-- Limit how many tasks of an engine may be in the queue and on workers at the same time.
INSERT INTO engine_limits (engine, max_running)
VALUES ($1, $2)
ON CONFLICT (engine) DO UPDATE SET max_running = excluded.max_running
