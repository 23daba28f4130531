-- The repository of a team that has this address.
SELECT id FROM repos WHERE team_id = $1 AND scm_url = $2
