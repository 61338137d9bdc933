-- Statements of Postgres. Each says why it differs from the other databases'.
-- They run inside the function that function.py makes of them, one after the other, each with a snapshot of its own
-- (READ COMMITTED). Before the first one the function has locked the rows of all runs that they are about, so
-- that owner, epoch and status stay what the first of them sees.

-- name: add_blob(hash, size, data)
-- differs: the row is written even if it is there, so that nobody removes it before it is referred to.
insert into perdure_blobs (hash, size, data) values (:hash, :size, :data)
on conflict (hash) do update set size = excluded.size;

-- name: fence(tag, run, epoch)
-- differs: @rows: all its rows at once.
-- I1: a row comes back when the driver no longer owns the run.
select :tag, 'stale' from @rows
where not exists (
  select 1 from perdure_runs r where r.number = :run and r.epoch = :epoch and r.owner is not null
);

-- name: append(run, epoch, seq, kind, key, at, data, started_at, attempt, fingerprint)
-- differs: @rows: all its rows at once.
insert into perdure_journal (run, seq, kind, key, at, data, started_at, attempt, fingerprint)
select :run, :seq, :kind, :key, :at, :data, :started_at, :attempt, :fingerprint
from @rows
where exists (select 1 from perdure_runs r where r.number = :run and r.epoch = :epoch and r.owner is not null);

-- name: restore(id, nth, topic, key, data, sent_at)
-- differs: a lock keeps two reruns from choosing the same ids.
-- A rerun gives back the messages that the dropped part of the history had taken. Their order is that of their
-- ids, and they come before all others: `nth` counts from the last of them, 1, to the first.
perform pg_advisory_xact_lock(hashtextextended('perdure restore', 0));
insert into perdure_inbox (id, run, topic, key, data, sent_at)
select (select coalesce(min(i.id), 0) from perdure_inbox i where i.id < 0) - :nth, number, :topic, :key, :data,
  :sent_at
from perdure_runs where id = :id;

-- name: finish(run, epoch, status, output, error, now)
-- differs: @rows: all its rows at once.
update perdure_runs
set status = :status, output = :output, error = :error, finished_at = :now,
  owner = null, due_at = null, waiting_for = null, reason = null
from @rows
where perdure_runs.number = :run and perdure_runs.epoch = :epoch and perdure_runs.owner is not null;

-- name: park(run, epoch, due_at, waiting_for, now)
-- differs: the topics are a JSON array, read with jsonb functions.
-- A message that came meanwhile makes the run due at once, so no wake-up is lost (I8): whoever sends one has
-- locked the run's row before, and so have we.
update perdure_runs
set owner = null, waiting_for = :waiting_for, takeovers = 0,
  status = case status when 'running' then 'waiting' else status end,
  slot = case when slot = 2 and status = 'running' and exists (
    select 1 from perdure_queues q where q.name = perdure_runs.queue and q.frees = 1
  ) then 1 else slot end,
  due_at = case when exists (
    select 1 from perdure_inbox i
    where i.run = :run and i.taken_seq is null
      and (starts_with(i.topic, 'control:') or jsonb_exists(:waiting_for::jsonb, i.topic))
  ) then :now else :due_at end
where number = :run and epoch = :epoch and owner is not null;

-- name: wake(run, topic, now)
-- differs: jsonb.
update perdure_runs set due_at = :now
where number = :run and owner is null and rank is null and (due_at is null or due_at > :now)
  and status in ('waiting', 'cancelling', 'compensating')
  and (starts_with(:topic, 'control:') or jsonb_exists(waiting_for::jsonb, :topic));

-- name: wake_id(id, topic, now)
-- differs: jsonb.
update perdure_runs set due_at = :now
where id = :id and owner is null and rank is null and (due_at is null or due_at > :now)
  and status in ('waiting', 'cancelling', 'compensating')
  and (starts_with(:topic, 'control:') or jsonb_exists(waiting_for::jsonb, :topic));

-- name: claim(tag, worker, now, most, workflows)
-- differs: rows that another claim holds are skipped, not waited for.
-- A run whose worker has died twice in a row is a suspect: a worker drives one suspect at a time, so that
-- its next death tells which of them it was.
-- A worker that others have declared dead gets nothing: it hears of its death by its heartbeat. Its row stays locked,
-- so that whoever is about to declare it dead waits, and then takes over what it has just claimed.
_numbers := array(select number from perdure_workers where number = :worker and state = 'alive' for share);
update perdure_runs
set owner = :worker, epoch = epoch + 1, due_at = null, started_at = coalesce(started_at, :now),
  status = case when status in ('queued', 'waiting') then 'running' else status end
where number = any (array(
  select number from perdure_runs
  where due_at is not null and slot = 0 and due_at <= :now and jsonb_exists(:workflows::jsonb, workflow)
    and :worker = any (_numbers)
    and (takeovers < 2 or number = (
      select s.number from perdure_runs s
      where s.due_at is not null and s.slot = 0 and s.due_at <= :now and s.takeovers >= 2
        and jsonb_exists(:workflows::jsonb, s.workflow)
        and not exists (select 1 from perdure_runs o where o.owner = :worker and o.owner > 0 and o.takeovers >= 2)
      order by s.takeovers, s.due_at, s.number limit 1
    ))
  order by due_at, number
  limit :most
  for no key update skip locked
))
returning :tag, 'claimed', number, id, workflow, status, generation, epoch, parent, input, seed, started_at,
  deadline_at, forked_from, takeovers, queue,
  exists (select 1 from perdure_inbox i where i.run = perdure_runs.number and i.taken_seq is null);

-- name: any_due(now, workflows)
-- differs: jsonb.
-- Whether there is anything to claim without a queue's leave.
select number from perdure_runs
where due_at is not null and slot = 0 and due_at <= :now and jsonb_exists(:workflows::jsonb, workflow)
order by due_at, number limit 1;

-- name: expire_runs(tag, now, most_takeovers, reason)
-- differs: the rows are locked first, those that somebody writes left for the next time; so what is read of
-- their journals and owners afterwards is the latest.
-- Runs of dead workers, and of such as were forgotten, become due again. A run that made no progress since its
-- last take-over counts one more; at the limit it is paused instead, and says why.
-- What a step has emitted is no progress, as its next attempt begins with nothing.
-- Who lives is asked apart: that table has no index for it, and a walk through it, which costs most of all when these
-- plans are made, would hide from Postgres before 18 that the runs have one.
_alive := array(select number from perdure_workers where state = 'alive' and lease_until >= :now);
_numbers := array(
  select number from perdure_runs
  where owner > 0 and owner not in (select unnest(_alive))
  order by number for no key update skip locked
);
_alive := array(select number from perdure_workers where state = 'alive' and lease_until >= :now);
update perdure_runs
set owner = null, epoch = epoch + 1, waiting_for = null,
  takeovers = case when takeover_seq is not distinct from
      (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted')
    and takeovers > 0 then takeovers + 1 else 1 end,
  takeover_seq = (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted'),
  status = case
    when takeovers + 1 >= :most_takeovers
      and takeover_seq is not distinct from
        (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted')
      then 'paused'
    when status = 'running' then 'queued' else status end,
  reason = case
    when takeovers + 1 >= :most_takeovers
      and takeover_seq is not distinct from
        (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted')
      then :reason end,
  due_at = case
    when takeovers + 1 >= :most_takeovers
      and takeover_seq is not distinct from
        (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted')
      then null else :now end,
  slot = case
    when slot = 2 and takeovers + 1 >= :most_takeovers
      and takeover_seq is not distinct from
        (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted')
      then 1 else slot end
where number = any (_numbers) and owner is not null and owner not in (select unnest(_alive))
returning :tag, 'expired', number, status;

-- name: mail(runs)
-- differs: the run numbers are a JSON array.
-- A child's large result is fetched from its blob right here.
select i.run, i.id, i.topic, i.key, coalesce(d.data, i.data), i.sent_at, c.status, coalesce(b.data, c.output),
  coalesce(e.data, c.error), c.id
from perdure_inbox i
left join perdure_runs c on c.number = i.sender
left join perdure_blobs d on d.hash = substr(i.data, 2) and starts_with(i.data, '@')
left join perdure_blobs b on b.hash = substr(c.output, 2) and starts_with(c.output, '@')
left join perdure_blobs e on e.hash = substr(c.error, 2) and starts_with(c.error, '@')
where i.taken_seq is null
  and i.run = any (array(select v::bigint from jsonb_array_elements_text(:runs::jsonb) v))
order by i.run, i.id;

-- name: ended(runs)
-- differs: jsonb. One look for everybody who waits, however many they are.
select number from perdure_runs
where number = any (array(select v::bigint from jsonb_array_elements_text(:runs::jsonb) v))
  and finished_at is not null;

-- name: lined_up(runs)
-- differs: jsonb.
-- For metrics: how long those runs stood in line that have just got their first slot of a queue.
select queue, slot_at - created_at from perdure_runs
where number = any (array(select v::bigint from jsonb_array_elements_text(:runs::jsonb) v)) and slot_at = started_at;

-- name: traces(runs)
-- differs: jsonb.
select run, trace from perdure_traces
where run = any (array(select v::bigint from jsonb_array_elements_text(:runs::jsonb) v));

-- name: blobs(hashes)
-- differs: jsonb.
select hash, data from perdure_blobs
where hash = any (array(select v from jsonb_array_elements_text(:hashes::jsonb) v));

-- name: doom(before, statuses, most, undelivered)
-- differs: a variable of the function carries the chosen trees from statement to statement; the trees are locked and
-- looked at once more, as somebody may be about to run one of their runs again.
-- Whole trees only: one with an unfinished run stays, or with events for a sink, unless told otherwise.
_numbers := array(
  select number from perdure_runs r
  where parent is null and finished_at is not null and finished_at < :before
    and jsonb_exists(:statuses::jsonb, status)
    and not exists (select 1 from perdure_runs d where d.root = r.number and d.finished_at is null)
    and (:undelivered = 1 or (select o.run from perdure_outbox o where o.root = r.number limit 1) is null)
  order by finished_at limit :most
);
_tree := array(
  with recursive tree (number) as (
    select n from unnest(_numbers) n
    union all
    select c.number from tree t join perdure_runs c on c.parent = t.number
  )
  select number from tree
);
perform 1 from perdure_runs where number = any (_tree) order by number for update;
_tree := array(
  with recursive tree (number) as (
    select r.number from perdure_runs r
    where r.number = any (_numbers) and r.finished_at is not null
      and not exists (select 1 from perdure_runs d where d.root = r.number and d.finished_at is null)
    union all
    select c.number from tree t join perdure_runs c on c.parent = t.number
  )
  select number from tree
);
-- Two prunes of the same trees in one batch: each by itself then.
if _doomed && _tree then
  raise exception 'perdure: pruned twice in one batch' using errcode = 'unique_violation';
end if;
_doomed := _doomed || _tree;
-- Stores that have been silent for a day more have no batch under way whose answer they wait for.
delete from perdure_writers where at < :before - 86400000000;

-- name: drop_journal()
-- differs: the doomed are a variable.
delete from perdure_journal where run = any (_doomed);

-- name: drop_inbox()
-- differs: the doomed are a variable.
delete from perdure_inbox where taken_seq is null and run = any (_doomed);

-- name: drop_keyed()
-- differs: the doomed are a variable.
-- Apart from the others, as each half has an index of its own.
delete from perdure_inbox where key is not null and run = any (_doomed);

-- name: drop_tags()
-- differs: the doomed are a variable.
delete from perdure_tags where run = any (_doomed);

-- name: drop_traces()
-- differs: the doomed are a variable.
delete from perdure_traces where run = any (_doomed);

-- name: drop_artifacts()
-- differs: the doomed are a variable.
delete from perdure_artifacts where run = any (_doomed);

-- name: drop_blobs()
-- differs: the blobs are locked first, in an order, so that a reference that is being made is seen.
perform 1 from perdure_blobs
where hash = any (array(select b.hash from perdure_blob_refs b where b.run = any (_doomed)))
order by hash for update;
delete from perdure_blobs where hash = any (array(
  select b.hash from perdure_blob_refs b where b.run = any (_doomed)
    and not exists (select 1 from perdure_blob_refs o where o.hash = b.hash and o.run <> all (_doomed))
));

-- name: drop_blob_refs()
-- differs: the doomed are a variable.
delete from perdure_blob_refs where run = any (_doomed);

-- name: drop_runs(tag)
-- differs: the doomed are a variable.
delete from perdure_runs where number = any (_doomed)
returning :tag, 'pruned', number;

-- name: clear_doomed()
-- differs: the doomed are a variable.
_doomed := '{}';

-- name: drop_orphans(tag, most)
-- differs: locked first, as in drop_blobs.
-- Blobs that came with a message or a child that was refused.
_hashes := array(
  select b.hash from perdure_blobs b
  where not exists (select 1 from perdure_blob_refs r where r.hash = b.hash)
  order by b.hash limit :most
  for update skip locked
);
delete from perdure_blobs b where b.hash = any (_hashes)
  and not exists (select 1 from perdure_blob_refs r where r.hash = b.hash)
returning :tag, 'orphan', hash;

-- ----------------------------------------------------------------------------- doctor, see doctor.sql

-- name: ill_reason(most)
-- differs: jsonb.
select count(*) over (), id from perdure_runs
where status = 'paused' and (reason is null or not coalesce(jsonb_exists(perdure_json(reason), 'code'), false))
order by number limit :most;

-- name: ill_topics(most)
-- differs: jsonb.
select count(*) over (), id from perdure_runs
where status in ('waiting', 'compensating', 'cancelling') and owner is null and waiting_for is not null
  and coalesce(jsonb_typeof(perdure_json(waiting_for)), '') <> 'array'
order by number limit :most;

-- name: ill_child_untold(most)
-- differs: jsonb.
select count(*) over (), w.id || ' waits for ' || substr(t.value, 7)
from perdure_runs w cross join lateral jsonb_array_elements_text(
    case when jsonb_typeof(perdure_json(w.waiting_for)) = 'array' then perdure_json(w.waiting_for) end
  ) as t (value)
  join perdure_runs c on c.id = substr(t.value, 7)
where w.owner is null and w.status in ('waiting', 'cancelling', 'compensating') and starts_with(t.value, 'child:')
  and c.status in ('completed', 'failed', 'cancelled')
  and not exists (
    select 1 from perdure_inbox i where i.run = w.number and i.topic = t.value and i.taken_seq is null
  )
order by w.number limit :most;

-- name: ill_child_strange(most)
-- differs: jsonb.
select count(*) over (), w.id || ' waits for ' || substr(t.value, 7)
from perdure_runs w cross join lateral jsonb_array_elements_text(
    case when jsonb_typeof(perdure_json(w.waiting_for)) = 'array' then perdure_json(w.waiting_for) end
  ) as t (value)
  left join perdure_runs c on c.id = substr(t.value, 7)
where w.owner is null and w.status in ('waiting', 'cancelling', 'compensating') and starts_with(t.value, 'child:')
  and (c.number is null or c.parent is distinct from w.number)
  and not exists (
    select 1 from perdure_inbox i where i.run = w.number and i.topic = t.value and i.taken_seq is null
  )
order by w.number limit :most;

-- name: ill_unread(now, most)
-- differs: jsonb.
-- Not what has become due since the doctor looked at the clock: a minute covers the time that it takes.
select count(*) over (), r.id from perdure_runs r
where r.owner is null and r.rank is null and r.status in ('waiting', 'cancelling', 'compensating')
  and (r.due_at is null or r.due_at > :now + 60000000)
  and exists (
    select 1 from perdure_inbox i
    where i.run = r.number and i.taken_seq is null
      and (starts_with(i.topic, 'control:') or jsonb_exists(perdure_json(r.waiting_for), i.topic))
  )
order by r.number limit :most;

-- name: ill_unknown_workflow(now, most)
-- differs: jsonb.
-- Due, and no live worker knows the workflow; one row per workflow.
select sum(count(*)) over (), r.workflow || ' (' || count(*) || ')' from perdure_runs r
where (r.due_at <= :now or r.rank is not null) and r.workflow <> '~durable'
  and exists (select 1 from perdure_workers a where a.state = 'alive' and a.lease_until >= :now)
  and not exists (
    select 1 from perdure_workers w
    where w.state = 'alive' and w.lease_until >= :now and jsonb_exists(w.workflows::jsonb, r.workflow)
  )
group by r.workflow
order by r.workflow limit :most;

-- name: ill_overdue(now, since, most)
-- differs: jsonb.
select count(*) over (), r.id from perdure_runs r
where r.due_at <= :since and r.slot <> 1
  and exists (
    select 1 from perdure_workers w
    where w.state = 'alive' and w.lease_until >= :now and jsonb_exists(w.workflows::jsonb, r.workflow)
  )
order by r.due_at, r.number limit :most;

-- name: ill_poison(most)
-- differs: jsonb.
select count(*) over (), id from perdure_runs
where status = 'paused' and perdure_json(reason) ->> 'code' = 'poison'
order by number limit :most;

-- name: ill_stopped(most)
-- differs: jsonb.
select count(*) over (), id || ': ' || (perdure_json(reason) ->> 'code') from perdure_runs
where status = 'paused' and perdure_json(reason) ->> 'code' not in ('operator', 'poison', 'divergence')
order by number limit :most;

-- name: ill_diverged(since, most)
-- differs: jsonb.
select count(*) over (), id from perdure_runs
where status = 'paused' and perdure_json(reason) ->> 'code' = 'divergence'
  and (perdure_json(reason) ->> 'at')::bigint <= :since
order by number limit :most;

-- name: ill_file()
-- differs: Postgres checks its pages when it reads them.
select 'ok';

-- name: file_size()
-- differs: Postgres's sizes of tables, with their indexes.
select coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint from pg_class c
where c.relnamespace = (
    select k.relnamespace from pg_class k where k.oid = (select m.tableoid from perdure_moves m limit 1)
  )
  and c.relkind = 'r' and starts_with(c.relname, 'perdure_');
