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

-- ------------------------------------------------------------------------------------- sinks and the outbox

-- name: touch_sinks(now)
-- Those who declare and those who remove sinks wait for each other here, or one of them is done again.
insert into perdure_chores (name, until) values ('sinks', :now)
on conflict (name) do update set until = excluded.until;

-- name: add_kind(name, kind, since)
insert into perdure_sinks (kind, name, since) values (:kind, :name, :since) on conflict (kind, name) do nothing;

-- name: remove_kind(name, kind)
delete from perdure_sinks where name = :name and kind = :kind;

-- name: fill_entries(name, kind, since, now)
-- A new sink is to be told of what is in the journals since then.
insert into perdure_outbox (run, sink, root, next, last, since, due_at)
select j.run, :name, coalesce(r.root, r.number), min(j.seq), max(j.seq), min(j.at), :now
from perdure_journal j join perdure_runs r on r.number = j.run
where j.kind = :kind and j.at >= :since
group by j.run, coalesce(r.root, r.number)
on conflict (run, sink) do update
set next = case when excluded.next < perdure_outbox.next then excluded.next else perdure_outbox.next end,
  last = case when excluded.last > perdure_outbox.last then excluded.last else perdure_outbox.last end;

-- name: fill_starts(name, since, now)
insert into perdure_outbox (run, sink, root, next, last, since, due_at)
select r.number, :name, coalesce(r.root, r.number), 0, 0, r.created_at, :now
from perdure_runs r where r.created_at >= :since
on conflict (run, sink) do update set next = 0;

-- name: remove_sink(tag, name)
delete from perdure_sinks where name = :name returning :tag, 'dropped', kind;

-- name: remove_deliveries(name)
delete from perdure_outbox where sink = :name;

-- name: guard_last_sink(tag, name)
select :tag, 'stale' where exists (select 1 from perdure_sinks where name <> :name);

-- name: advance_delivery(tag, run, sink, worker, epoch, next)
-- No row back: somebody else delivers it now.
update perdure_outbox set next = :next, attempts = 0, error = null
where run = :run and sink = :sink and owner = :worker and epoch = :epoch
returning :tag, 'advanced', run;

-- name: end_delivery(run, sink, worker, epoch, last)
-- All is delivered, unless the run has made more of it meanwhile.
delete from perdure_outbox
where run = :run and sink = :sink and owner = :worker and epoch = :epoch and last <= :last;

-- name: leave_delivery(run, sink, worker, epoch, next, now)
-- There is more to deliver, now.
update perdure_outbox set next = :next, attempts = 0, error = null, owner = null, due_at = :now
where run = :run and sink = :sink and owner = :worker and epoch = :epoch;

-- name: fail_delivery(run, sink, worker, epoch, next, attempts, error, due_at, dead_at)
update perdure_outbox
set next = :next, attempts = :attempts, error = :error, owner = null, due_at = :due_at, dead_at = :dead_at
where run = :run and sink = :sink and owner = :worker and epoch = :epoch;

-- name: release_deliveries(worker, now)
update perdure_outbox set owner = null, due_at = :now where owner = :worker;

-- name: expire_deliveries(now)
-- What dead workers were delivering is due again.
update perdure_outbox set owner = null, due_at = :now
where owner is not null
  and owner not in (select w.number from perdure_workers w where w.state = 'alive' and w.lease_until >= :now);

-- name: replay_dead(tag, sink, now, most)
update perdure_outbox set dead_at = null, attempts = 0, due_at = :now
where sink = :sink and run in (
  select o.run from perdure_outbox o where o.sink = :sink and o.dead_at is not null order by o.dead_at, o.run limit :most
)
returning :tag, 'replayed', run;

-- name: replay_one(tag, sink, id, now)
update perdure_outbox set dead_at = null, attempts = 0, due_at = :now
where sink = :sink and dead_at is not null and run = (select r.number from perdure_runs r where r.id = :id)
returning :tag, 'replayed', run;

-- name: skip_last(tag, sink, id, next)
-- The event that fails was the last one.
delete from perdure_outbox
where sink = :sink and next = :next and last <= :next and owner is null
  and run = (select r.number from perdure_runs r where r.id = :id)
returning :tag, 'skipped', run;

-- name: skip_event(tag, sink, id, next, now)
update perdure_outbox set next = :next + 1, attempts = 0, error = null, dead_at = null, due_at = :now
where sink = :sink and next = :next and last > :next and owner is null
  and run = (select r.number from perdure_runs r where r.id = :id)
returning :tag, 'skipped', run;

-- name: sinks()
select name, kind, since from perdure_sinks order by name, kind;

-- name: sink_counts()
select sink, count(*), coalesce(sum(case when dead_at is null then 0 else 1 end), 0), min(since)
from perdure_outbox group by sink order by sink;

-- name: dead_deliveries(sink, most)
select r.id, o.next, o.last, o.attempts, o.error, o.dead_at
from perdure_outbox o join perdure_runs r on r.number = o.run
where o.sink = :sink and o.dead_at is not null order by o.dead_at, o.run limit :most;

-- name: delivery(sink, id)
select o.next, o.last, o.attempts, o.error, o.dead_at, o.owner
from perdure_outbox o where o.sink = :sink and o.run = (select r.number from perdure_runs r where r.id = :id);
