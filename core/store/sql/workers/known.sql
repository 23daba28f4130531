-- Tell whether a worker with this instance key has registered before.
SELECT w.id FROM workers AS w WHERE w.instance_hash = $1
