-- Let one transaction at a time put limited tasks into the queue; the others wait for its end.
SELECT pg_advisory_xact_lock(hashtext('kennel.limits'))
