-- Which of these engines a worker has ever offered.
SELECT DISTINCT offer ->> 'name' AS name
FROM workers
CROSS JOIN LATERAL jsonb_array_elements(engines) AS offer
WHERE offer ->> 'name' = ANY ($1::text[])
