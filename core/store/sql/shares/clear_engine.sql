-- Take an engine's limit away.
DELETE FROM engine_limits WHERE engine = $1
