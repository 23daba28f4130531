-- End any later statement of the transaction that takes longer.
SELECT set_config('statement_timeout', $1, true)
