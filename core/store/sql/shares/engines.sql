-- Return the limits of engines, by name.
SELECT e.engine, e.max_running FROM engine_limits AS e ORDER BY e.engine
