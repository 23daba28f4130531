-- One caller at a time moves the default of a repository.
SELECT id FROM repos WHERE id = $1 FOR NO KEY UPDATE
