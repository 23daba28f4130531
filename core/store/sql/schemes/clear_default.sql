-- Make room for another default.
UPDATE schemes
SET is_default = false, modified_at = now()
WHERE repo_id = $1 AND is_default AND id IS DISTINCT FROM $2
