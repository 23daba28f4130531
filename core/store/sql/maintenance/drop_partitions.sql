-- Drop the oldest range of the history if nobody needs it; return the names of its partitions.
SELECT drop_partitions($1::interval)
