-- Note an artifact on the lease of its attempt, in the place of an earlier one of that name.
UPDATE task_leases AS l
SET
    artifacts = coalesce(
        (
            SELECT jsonb_agg(a.a)
            FROM jsonb_array_elements(l.artifacts) AS a (a)
            WHERE a.a ->> 'name' <> $2
        ),
        '[]'
    )
    || jsonb_build_array(
        jsonb_build_object('name', $2::text, 'size_bytes', $3::bigint, 'sha256', $4::text)
    )
WHERE l.attempt_id = $1
