-- Let one transaction at a time match workers and capability classes, so that none misses another.
SELECT pg_advisory_xact_lock(hashtext('kennel.capabilities'))
