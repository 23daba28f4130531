-- One process at a time decides whether a first admin token is needed.
SELECT pg_advisory_xact_lock(hashtext('kennel.bootstrap'))
