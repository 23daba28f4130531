-- The owners of user tokens that are good now, and with each the project it asks for if it sees it.
SELECT
    asked.n,
    token.id,
    token.name,
    token.role,
    token.org_id,
    project.id AS project_id,
    project.active_job_policy
FROM
    unnest($1::bytea[], $2::text[], $3::text[], $4::bigint[], $5::bigint[])
    WITH ORDINALITY
    AS asked (token_hash, org_sid, team_name, repo_id, project_id, n)
INNER JOIN tokens AS token ON asked.token_hash = token.token_hash
-- The limit keeps the planner from reading whole tables at once.
LEFT JOIN LATERAL (
    SELECT
        p.id,
        s.active_job_policy
    FROM projects AS p
    INNER JOIN schemes AS s ON p.scheme_id = s.id
    INNER JOIN repos AS r ON p.repo_id = r.id
    INNER JOIN teams AS t ON r.team_id = t.id
    INNER JOIN organizations AS o ON t.org_id = o.id
    WHERE
        p.id = asked.project_id
        AND r.id = asked.repo_id
        AND t.name = asked.team_name
        AND o.org_sid = asked.org_sid
        AND (token.org_id IS NULL OR token.org_id = o.id)
    LIMIT 1
) AS project ON true
WHERE
    token.kind = 'user'
    AND token.revoked_at IS NULL
    AND (token.expires_at IS NULL OR token.expires_at > now())
