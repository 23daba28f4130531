-- Return how many jobs are being resolved, up to a bound.
SELECT count(*) AS resolving
FROM (
    SELECT
    FROM jobs AS j
    WHERE j.phase = 'resolving'
    LIMIT $1
) AS admitted
