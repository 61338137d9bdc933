-- Statements of run_durable that every database takes as written.

-- name: keyed(run_id, topic, key)
-- The first message under a key, taken or not.
select i.data, i.sent_at from perdure_inbox i join perdure_runs r on r.number = i.run
where r.id = :run_id and i.topic = :topic and i.key = :key;
