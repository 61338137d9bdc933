-- Commands, where every database takes them as written. How they work: docs/commands.md.

-- name: acquire_command(tag, name, key, fingerprint, token, now, until)
-- No row back: it is under way, or has a result.
insert into perdure_commands (name, key, fingerprint, token, begun_at, until)
values (:name, :key, :fingerprint, :token, :now, :until)
on conflict (name, key) do update
set fingerprint = excluded.fingerprint, token = excluded.token, begun_at = excluded.begun_at, until = excluded.until,
  result = null
where perdure_commands.until <= excluded.begun_at
returning :tag, 'acquired';

-- name: guard_command(tag, name, key, token)
select :tag, 'stale' where not exists (
  select 1 from perdure_commands where name = :name and key = :key and token = :token and result is null
);

-- name: guard_open(tag, id)
select :tag, 'stale' where not exists (
  select 1 from perdure_runs where id = :id and status not in ('completed', 'failed', 'cancelled')
);

-- name: guard_queue(tag, queue)
select :tag, 'stale' where not exists (select 1 from perdure_queues where name = :queue and state <> 'draining');

-- name: settle_command(name, key, token, data, until)
update perdure_commands set result = :data, until = :until
where name = :name and key = :key and token = :token and result is null;

-- name: free_command(name, key, token)
delete from perdure_commands where name = :name and key = :key and token = :token and result is null;

-- name: forget_commands(now)
delete from perdure_commands where until <= :now;

-- name: command(name, key)
select fingerprint, token, until, result from perdure_commands where name = :name and key = :key;
