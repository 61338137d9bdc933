-- Queues, where every database takes it as written. How it fits together: docs/adr/0009-queues.md.

-- ----------------------------------------------------------------------------------------- starting

-- name: enqueue(tag, id, workflow, due_at, input, seed, now, deadline_at, queue, key, priority, weight, scope, name)
-- A run that goes through a queue, or that was started under a name, or both.
-- No row back: the id or the name is taken, there is no such queue, or it is being drained.
insert into perdure_runs (
  id, workflow, status, due_at, input, seed, created_at, deadline_at, queue, queue_key, priority, weight, slot, rank
)
select :id, :workflow, 'queued', case when :queue is null or :due_at > :now then :due_at end, :input, :seed, :now,
  :deadline_at, :queue, :key, :priority, :weight, case when :queue is null then 0 else 1 end,
  case when q.name is not null and :due_at <= :now then :now - :priority * q.ageing end
from (select 1 as one) o left join perdure_queues q on q.name = :queue
where (:queue is null or q.state <> 'draining')
  and (:scope is null or exists (
    select 1 from perdure_names n where n.scope = :scope and n.name = :name and n.run_id = :id
  ))
on conflict (id) do nothing
returning :tag, 'started', number;

-- name: enter_queue(id, queue, key, priority, weight, parent)
-- A child or a fork that has just been inserted goes through a queue, too. Draining does not keep it out: it belongs
-- to what is to be finished.
update perdure_runs set queue = :queue, queue_key = :key, priority = :priority, weight = :weight, slot = 1
where id = :id and queue is null and epoch = 0 and owner is null and started_at is null
  and (:parent is null or parent = :parent);

-- name: free_name(scope, name, now)
-- A name whose time is over, or whose run has ended, is nobody's.
delete from perdure_names
where scope = :scope and name = :name and case when until is not null then until <= :now else not exists (
  select 1 from perdure_runs r where r.id = run_id and r.finished_at is null
) end;

-- name: free_open(scope, name, most, now)
-- So is that of a run which takes no more: it has begun or is about to, or it is full.
delete from perdure_names
where scope = :scope and name = :name and not exists (
  select 1 from perdure_runs r
  where r.id = run_id and r.status = 'queued' and r.epoch = 0 and r.owner is null and r.due_at > :now and r.weight < :most
);

-- name: ask_named(tag, scope, name, id, data, now)
-- The run that has the name is to make room for another one.
insert into perdure_inbox (run, topic, data, sent_at)
select r.number, 'control:cancel', :data, :now
from perdure_names n join perdure_runs r on r.id = n.run_id
where n.scope = :scope and n.name = :name and n.run_id <> :id
  and r.status not in ('completed', 'failed', 'cancelled', 'cancelling')
returning :tag, 'asked', run;

-- name: cancel_named(scope, name, id, now)
update perdure_runs
set status = case status when 'compensating' then status else 'cancelling' end, reason = null,
  due_at = case when owner is null then :now end, slot = case slot when 1 then 0 else slot end, rank = null
where id = (select n.run_id from perdure_names n where n.scope = :scope and n.name = :name and n.run_id <> :id)
  and status in ('queued', 'running', 'waiting', 'paused', 'compensating');

-- name: lose_name(scope, name, id)
delete from perdure_names where scope = :scope and name = :name and run_id <> :id;

-- name: take_name(scope, name, id, until, queue)
-- Not for a run that its queue will refuse.
insert into perdure_names (scope, name, run_id, until)
select :scope, :name, :id, :until
where :queue is null or exists (select 1 from perdure_queues q where q.name = :queue and q.state <> 'draining')
on conflict (scope, name) do nothing;

-- name: debounce(tag, scope, name, input, due_at, longest, now)
-- The run that waits under this name takes this input instead, and waits on.
update perdure_runs
set input = :input, due_at = case when created_at + :longest < :due_at then created_at + :longest else :due_at end
where id = (select n.run_id from perdure_names n where n.scope = :scope and n.name = :name)
  and status = 'queued' and epoch = 0 and owner is null and due_at > :now
returning :tag, 'debounced', id;

-- name: add_item(tag, scope, name, id, item, most, now)
-- The batch that gathers under this name takes one more, and is due when it is full.
update perdure_runs
set input = substr(input, 1, length(input) - 1) || ',' || :item || ']', weight = weight + 1,
  due_at = case when weight + 1 >= :most then :now else due_at end
where id = (select n.run_id from perdure_names n where n.scope = :scope and n.name = :name and n.run_id <> :id)
  and status = 'queued' and epoch = 0 and owner is null and due_at > :now and weight < :most
returning :tag, 'added', id;

-- name: refer_named(scope, name, hash)
insert into perdure_blob_refs (run, hash)
select r.number, :hash
from perdure_names n join perdure_runs r on r.id = n.run_id where n.scope = :scope and n.name = :name
on conflict (run, hash) do nothing;

-- name: forget_names(now)
delete from perdure_names where until <= :now;

-- name: named(scope, name)
select run_id from perdure_names where scope = :scope and name = :name;

-- ---------------------------------------------------------------------------------------- working off

-- name: line_up(now, queue)
-- A run that is due and wants a slot stands in line instead. One that has only waited keeps the place of its start.
update perdure_runs
set due_at = null, rank = case status when 'waiting' then created_at else due_at end
  - priority * (select q.ageing from perdure_queues q where q.name = :queue)
where queue = :queue and slot = 1 and slot > 0 and due_at <= :now;

-- name: queue_ready(queue, now)
-- Whether there is something for a worker to claim. (Not by exists, as in next_due.)
select coalesce(
  (select 1 from perdure_runs l where l.queue = :queue and l.rank is not null order by l.queue_key limit 1),
  (select 1 from perdure_runs d where d.queue = :queue and d.slot > 0 and d.slot in (1, 2) and d.due_at <= :now limit 1)
);

-- name: forget_spent(queue, now)
-- Ten seconds late: whoever claims by a clock that is a moment behind, or sends a claim again, must find what was spent.
delete from perdure_spent where queue = :queue and until <= :now - 10000000;

-- name: next_due(after)
-- When to look for runs again. The first row is about runs without a queue; each queue where something can be due
-- has one with its name and whether there is something for a worker to claim already. (Not by exists: Postgres
-- would answer it by reading the table, as nearly any row may be the first in line.)
select null as queue, min(due_at) as due_at, 0 as ready from perdure_runs
where due_at is not null and slot = 0 and due_at > :after
union all
select name, (select min(at) from (
    select min(w.due_at) as at from perdure_runs w
    where w.queue = name and w.slot = 1 and w.slot > 0 and w.due_at > :after
    union all
    select min(h.due_at) from perdure_runs h where h.queue = name and h.slot = 2 and h.slot > 0 and h.due_at > :after
    union all
    select min(s.until) from perdure_spent s where s.queue = name and s.until > :after and line = 1
  ) t), case when due = 1 or (line = 1 and state <> 'paused') then 1 else 0 end
from (
  select q.name, q.state,
    coalesce((
      select 1 from perdure_runs l where l.queue = q.name and l.rank is not null order by l.queue_key limit 1
    ), 0) as line,
    coalesce((
      select 1 from perdure_runs d
      where d.queue = q.name and d.slot > 0 and d.slot in (1, 2) and d.due_at <= :after limit 1
    ), 0) as due
  from perdure_queues q
) known;

-- --------------------------------------------------------------------------------------- looking after

-- name: declare_queue(name, concurrency, per_worker, per_key, frees, ageing, declared, mark)
-- What code declares counts when the code has changed; otherwise what operators have set since stays.
insert into perdure_queues (name, concurrency, per_worker, per_key, frees, ageing, declared, mark)
values (:name, :concurrency, :per_worker, :per_key, :frees, :ageing, :declared, :mark)
on conflict (name) do update
set concurrency = excluded.concurrency, per_worker = excluded.per_worker, per_key = excluded.per_key,
  frees = excluded.frees, ageing = excluded.ageing, declared = excluded.declared, mark = excluded.mark
where excluded.declared is not null
  and (perdure_queues.declared is null or perdure_queues.declared <> excluded.declared);

-- name: set_queue(tag, name, concurrency, per_worker, per_key, frees, ageing, mark)
update perdure_queues
set concurrency = :concurrency, per_worker = :per_worker, per_key = :per_key, frees = :frees, ageing = :ageing,
  mark = :mark
where name = :name
returning :tag, 'set', name;

-- name: clear_rates(queue, mark)
-- Those of a queue that has just been changed. What was counted under them: clear_spent.
delete from perdure_rates
where queue = :queue and exists (select 1 from perdure_queues q where q.name = :queue and q.mark = :mark);

-- name: add_rate(queue, nth, most, period, grain, span, by_key, mark)
insert into perdure_rates (queue, place, most, period, grain, span, by_key)
select :queue, :nth, :most, :period, :grain, :span, :by_key
from perdure_queues q where q.name = :queue and q.mark = :mark
on conflict (queue, place) do nothing;

-- name: clear_spent(queue)
-- What was counted under rates that no longer exist, or count otherwise.
delete from perdure_spent
where queue = :queue and not exists (
  select 1 from perdure_rates r
  where r.queue = :queue and r.place = perdure_spent.place and perdure_spent.until = perdure_spent.at + r.span
    and (r.by_key = 1 or perdure_spent.key = '')
);

-- name: set_queue_state(tag, name, state)
update perdure_queues set state = :state where name = :name
returning :tag, 'set', name;

-- name: remove_queue(tag, name)
-- No row back: there is none, or runs that have not ended go through it.
delete from perdure_queues
where name = :name
  and not exists (select 1 from perdure_runs r where r.queue = :name and r.queue is not null and r.finished_at is null)
returning :tag, 'dropped', name;

-- name: queues()
select name, state, concurrency, per_worker, per_key, frees, ageing, served, cursor, declared
from perdure_queues order by name;

-- name: queue_rates()
select queue, most, period, grain, by_key, place from perdure_rates order by queue, place;

-- name: queue_counts(queue, key, now)
-- In line, delayed, with a slot; of these those that a worker drives; and in line and with a slot under this key.
select
  (select count(*) from perdure_runs r where r.queue = :queue and r.rank is not null),
  (select count(*) from perdure_runs r where r.queue = :queue and r.slot = 1 and r.slot > 0 and r.due_at > :now),
  (select count(*) from perdure_runs r where r.queue = :queue and r.slot = 2 and r.finished_at is null),
  (select count(*) from perdure_runs r where r.queue = :queue and r.owner > 0),
  (select count(*) from perdure_runs r
   where r.queue = :queue and r.queue_key = :key and r.slot = 2 and r.finished_at is null);

-- name: queue_gauges(now, most, top)
-- Of the first queues, for whoever watches them: how many runs are in line, hold a slot, have failed, each counted up
-- to a limit. And since when the first one waits: of those in line, of which a tenth as many are read; of those that
-- are to be in line; of those that go on with their slot and that no worker has claimed. What priority did to a rank is
-- taken back.
select q.name,
  (select count(*) from (
    select 1 from perdure_runs l where l.queue = q.name and l.rank is not null order by l.queue_key, l.rank limit :most
  ) line),
  (select count(*) from (
    select 1 from perdure_runs l
    where l.queue = q.name and l.slot = 2 and l.finished_at is null order by l.queue_key limit :most
  ) found),
  (select count(*) from (
    select 1 from perdure_runs l
    where l.queue = q.name and l.queue is not null and l.status = 'failed' limit :most
  ) found),
  (select min(since) from (
    select min(line.since) as since from (
      select l.rank + l.priority * q.ageing as since from perdure_runs l
      where l.queue = q.name and l.rank is not null order by l.queue_key, l.rank, l.number limit :most / 10
    ) line
    union all
    select min(l.due_at) from perdure_runs l where l.queue = q.name and l.slot = 1 and l.slot > 0 and l.due_at <= :now
    union all
    select min(l.due_at) from perdure_runs l where l.queue = q.name and l.slot = 2 and l.slot > 0 and l.due_at <= :now
  ) found)
from (select name, ageing from perdure_queues order by name limit :top) q;

-- name: rate_room(queue, key, now)
-- Of each rate: its number, its most, its window, whether it counts by key, and what is spent of it now.
select r.place, r.most, r.period, r.by_key, coalesce((
    select sum(s.used) from perdure_spent s
    where s.queue = r.queue and s.place = r.place and s.key = case when r.by_key = 1 then :key else '' end
      and s.until > :now
  ), 0), (
    select min(s.until) from perdure_spent s
    where s.queue = r.queue and s.place = r.place and s.key = case when r.by_key = 1 then :key else '' end
      and s.until > :now
  )
from perdure_rates r where r.queue = :queue order by r.place;

-- name: place_in_line(queue, key, rank, number)
-- How many stand before this run in the line of its key.
select count(*) from perdure_runs r
where r.queue = :queue and r.queue_key = :key and r.rank is not null
  and (r.rank < :rank or (r.rank = :rank and r.number < :number));

-- name: owned_in_queue(queue, now)
-- How many runs of a queue each live worker drives.
select w.workflows, (select count(*) from perdure_runs r where r.owner = w.number and r.owner > 0 and r.queue = :queue)
from perdure_workers w where w.state = 'alive' and w.lease_until >= :now;

-- name: dead_letters(queue, after, most)
select * from perdure_runs
where queue = :queue and queue is not null and status = 'failed' and number > :after order by number limit :most;

-- name: dead_count(queue)
select count(*) from perdure_runs where queue = :queue and queue is not null and status = 'failed';
