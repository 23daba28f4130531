-- Be the only one that changes the counts until the transaction ends; false: another one is.
SELECT pg_try_advisory_xact_lock(hashtext('kennel.job_counts'))
