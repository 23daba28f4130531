-- Drop the chunks of a blob that is about to be written anew.
DELETE FROM blobs WHERE task_id = $1 AND attempt_id = $2 AND name = $3
