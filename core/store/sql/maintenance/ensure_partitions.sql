-- Make the next partition of every history table before it is needed; return how many were made.
SELECT ensure_partitions()
