-- Begin new ranges of the history where the present ones have lasted; return how many.
SELECT turn_partitions($1::interval)
