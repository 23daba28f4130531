-- Offer workers on probation nothing beside the attempt each was just given, until it has ended.
UPDATE workers
SET
    quarantined_until
        = now() + make_interval(secs => least($4, $3 * 2 ^ least(greatest(faults - $2, 0), 30)))
WHERE id = ANY($1::bigint[]) AND quarantined_until <= now()
RETURNING id
