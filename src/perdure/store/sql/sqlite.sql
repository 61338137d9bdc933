-- Statements of SQLite. Each says why it differs from the other databases'.

-- name: add_blob(hash, size, data)
-- differs: nobody removes it meanwhile, as one writes at a time.
insert into perdure_blobs (hash, size, data) values (:hash, :size, :data)
on conflict (hash) do nothing;

-- name: fence(tag, run, epoch)
-- differs: once for each row, which is what executemany does.
-- I1: a row comes back when the driver no longer owns the run.
select :tag, 'stale'
where not exists (
  select 1 from perdure_runs where number = :run and epoch = :epoch and owner is not null
);

-- name: append(run, epoch, seq, kind, key, at, data, started_at, attempt, fingerprint)
-- differs: as fence.
insert into perdure_journal (run, seq, kind, key, at, data, started_at, attempt, fingerprint)
select number, :seq, :kind, :key, :at, :data, :started_at, :attempt, :fingerprint
from perdure_runs
where number = :run and epoch = :epoch and owner is not null;

-- name: restore(id, nth, topic, key, data, sent_at)
-- differs: one writer at a time needs no lock.
-- A rerun gives back the messages that the dropped part of the history had taken. Their order is that of their
-- ids, and they come before all others: `nth` counts from the last of them, 1, to the first.
insert into perdure_inbox (id, run, topic, key, data, sent_at)
select (select coalesce(min(i.id), 0) from perdure_inbox i where i.id < 0) - :nth, number, :topic, :key, :data,
  :sent_at
from perdure_runs where id = :id;

-- name: finish(run, epoch, status, output, error, now)
-- differs: Postgres ends all runs of a batch at once.
update perdure_runs
set status = :status, output = :output, error = :error, finished_at = :now,
  owner = null, due_at = null, waiting_for = null, reason = null
where number = :run and epoch = :epoch and owner is not null;

-- name: park(run, epoch, due_at, waiting_for, now)
-- differs: the topics are a JSON array, read with json_each.
-- A message that came meanwhile makes the run due at once, so no wake-up is lost (I8).
update perdure_runs
set owner = null, waiting_for = :waiting_for, takeovers = 0,
  status = case status when 'running' then 'waiting' else status end,
  slot = case when slot = 2 and status = 'running' and exists (
    select 1 from perdure_queues q where q.name = perdure_runs.queue and q.frees = 1
  ) then 1 else slot end,
  due_at = case when exists (
    select 1 from perdure_inbox i
    where i.run = :run and i.taken_seq is null
      and (i.topic glob 'control:*' or i.topic in (select value from json_each(:waiting_for)))
  ) then :now else :due_at end
where number = :run and epoch = :epoch and owner is not null;

-- name: wake(run, topic, now)
-- differs: json_each.
update perdure_runs set due_at = :now
where number = :run and owner is null and rank is null and (due_at is null or due_at > :now)
  and status in ('waiting', 'cancelling', 'compensating')
  and (:topic glob 'control:*' or exists (select 1 from json_each(waiting_for) where value = :topic));

-- name: wake_id(id, topic, now)
-- differs: json_each.
update perdure_runs set due_at = :now
where id = :id and owner is null and rank is null and (due_at is null or due_at > :now)
  and status in ('waiting', 'cancelling', 'compensating')
  and (:topic glob 'control:*' or exists (select 1 from json_each(waiting_for) where value = :topic));

-- name: claim(tag, worker, now, most, workflows)
-- differs: one writer at a time needs no row locks.
-- A run whose worker has died twice in a row is a suspect: a worker drives one suspect at a time, so that
-- its next death tells which of them it was. A worker that others have declared dead gets nothing: it hears of its
-- death by its heartbeat.
-- The + keeps the index by workflow out, which holds the finished runs as well.
update perdure_runs
set owner = :worker, epoch = epoch + 1, due_at = null, started_at = coalesce(started_at, :now),
  status = case when status in ('queued', 'waiting') then 'running' else status end
where number in (
  select number from perdure_runs
  where due_at is not null and slot = 0 and due_at <= :now
    and exists (select 1 from perdure_workers w where w.number = :worker and w.state = 'alive')
    and +workflow in (select value from json_each(:workflows))
    and (takeovers < 2 or number = (
      select s.number from perdure_runs s
      where s.due_at is not null and s.slot = 0 and s.due_at <= :now and s.takeovers >= 2
        and +s.workflow in (select value from json_each(:workflows))
        and not exists (select 1 from perdure_runs o where o.owner = :worker and o.takeovers >= 2)
      order by s.takeovers, s.due_at, s.number limit 1
    ))
  order by due_at, number
  limit :most
)
returning :tag, 'claimed', number, id, workflow, status, generation, epoch, parent, input, seed, started_at,
  deadline_at, forked_from, takeovers, queue,
  exists (select 1 from perdure_inbox i where i.run = perdure_runs.number and i.taken_seq is null);

-- name: any_due(now, workflows)
-- differs: json_each.
-- Whether there is anything to claim without a queue's leave.
select number from perdure_runs
where due_at is not null and slot = 0 and due_at <= :now
  and +workflow in (select value from json_each(:workflows))
order by due_at, number limit 1;

-- name: expire_runs(tag, now, most_takeovers, reason)
-- differs: `is` compares nulls as equal.
-- Runs of dead workers, and of such as were forgotten, become due again. A run that made no progress since its last take-over counts
-- one more; at the limit it is paused instead, and says why.
-- What a step has emitted is no progress, as its next attempt begins with nothing.
update perdure_runs
set owner = null, epoch = epoch + 1, waiting_for = null,
  takeovers = case when takeover_seq is (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted')
    and takeovers > 0 then takeovers + 1 else 1 end,
  takeover_seq = (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted'),
  status = case
    when takeovers + 1 >= :most_takeovers
      and takeover_seq is (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted') then 'paused'
    when status = 'running' then 'queued' else status end,
  reason = case
    when takeovers + 1 >= :most_takeovers
      and takeover_seq is (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted') then :reason end,
  due_at = case
    when takeovers + 1 >= :most_takeovers
      and takeover_seq is (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted') then null else :now end,
  slot = case
    when slot = 2 and takeovers + 1 >= :most_takeovers
      and takeover_seq is (select max(j.seq) from perdure_journal j where j.run = number and j.kind <> 'step_emitted') then 1 else slot end
where owner is not null
  and owner not in (select w.number from perdure_workers w where w.state = 'alive' and w.lease_until >= :now)
returning :tag, 'expired', number, status;

-- name: mail(runs)
-- differs: the run numbers are a JSON array.
-- A child's large result is fetched from its blob right here.
select i.run, i.id, i.topic, i.key, coalesce(d.data, i.data), i.sent_at, c.status, coalesce(b.data, c.output),
  coalesce(e.data, c.error), c.id
from perdure_inbox i
left join perdure_runs c on c.number = i.sender
left join perdure_blobs d on d.hash = substr(i.data, 2) and i.data glob '@*'
left join perdure_blobs b on b.hash = substr(c.output, 2) and c.output glob '@*'
left join perdure_blobs e on e.hash = substr(c.error, 2) and c.error glob '@*'
where i.taken_seq is null and i.run in (select value from json_each(:runs))
order by i.run, i.id;

-- name: ended(runs)
-- differs: json_each. One look for everybody who waits, however many they are.
select number from perdure_runs
where number in (select value from json_each(:runs)) and finished_at is not null;

-- name: lined_up(runs)
-- differs: json_each.
-- For metrics: how long those runs stood in line that have just got their first slot of a queue.
select queue, slot_at - created_at from perdure_runs
where number in (select value from json_each(:runs)) and slot_at = started_at;

-- name: traces(runs)
-- differs: json_each.
select run, trace from perdure_traces where run in (select value from json_each(:runs));

-- name: blobs(hashes)
-- differs: json_each.
select hash, data from perdure_blobs where hash in (select value from json_each(:hashes));

-- name: doom(before, statuses, most, undelivered)
-- differs: a temporary table carries the chosen trees from statement to statement.
-- Whole trees only: one with an unfinished run stays, or with events for a sink, unless told otherwise. The plus keeps SQLite on the index by time.
insert into temp.perdure_doomed (number)
with recursive tree (root, number) as (
  select number, number from (
    select number from perdure_runs r
    where parent is null and finished_at is not null and finished_at < :before
      and +status in (select value from json_each(:statuses))
      and not exists (
        select 1 from perdure_runs d where d.root = r.number and d.finished_at is null
      )
      and (:undelivered = 1 or not exists (select 1 from perdure_outbox o where o.root = r.number))
    order by finished_at limit :most
  )
  union all
  select t.root, c.number from tree t join perdure_runs c on c.parent = t.number
)
select number from tree;

-- name: drop_journal()
-- differs: temp table.
delete from perdure_journal where run in (select number from temp.perdure_doomed);

-- name: drop_inbox()
-- differs: temp table.
delete from perdure_inbox where taken_seq is null and run in (select number from temp.perdure_doomed);

-- name: drop_keyed()
-- differs: temp table.
-- Apart from the others, as each half has an index of its own.
delete from perdure_inbox where key is not null and run in (select number from temp.perdure_doomed);

-- name: drop_tags()
-- differs: temp table.
delete from perdure_tags where run in (select number from temp.perdure_doomed);

-- name: drop_traces()
-- differs: temp table.
delete from perdure_traces where run in (select number from temp.perdure_doomed);

-- name: drop_artifacts()
-- differs: temp table.
delete from perdure_artifacts where run in (select number from temp.perdure_doomed);

-- name: drop_blobs()
-- differs: temp table.
delete from perdure_blobs where hash in (
  select b.hash from perdure_blob_refs b where b.run in (select number from temp.perdure_doomed)
    and not exists (
      select 1 from perdure_blob_refs o
      where o.hash = b.hash and o.run not in (select number from temp.perdure_doomed)
    )
);

-- name: drop_blob_refs()
-- differs: temp table.
delete from perdure_blob_refs where run in (select number from temp.perdure_doomed);

-- name: drop_runs(tag)
-- differs: temp table.
delete from perdure_runs where number in (select number from temp.perdure_doomed)
returning :tag, 'pruned', number;

-- name: clear_doomed()
-- differs: temp table.
delete from temp.perdure_doomed;

-- name: drop_orphans(tag, most)
-- differs: Postgres needs a lock against a reference that is being made.
-- Blobs that came with a message or a child that was refused.
delete from perdure_blobs where hash in (
  select b.hash from perdure_blobs b
  where not exists (select 1 from perdure_blob_refs r where r.hash = b.hash) limit :most
)
returning :tag, 'orphan', hash;

-- ----------------------------------------------------------------------------- doctor, see doctor.sql

-- name: ill_reason(most)
-- differs: json_valid, json_extract.
select count(*) over (), id from perdure_runs
where status = 'paused' and (
  reason is null or case when json_valid(reason) then json_extract(reason, '$.code') is null else 1 end
)
order by number limit :most;

-- name: ill_topics(most)
-- differs: json_valid.
select count(*) over (), id from perdure_runs
where status in ('waiting', 'compensating', 'cancelling') and owner is null and waiting_for is not null
  and case when json_valid(waiting_for) then json_type(waiting_for) <> 'array' else 1 end
order by number limit :most;

-- name: ill_child_untold(most)
-- differs: json_each.
select count(*) over (), w.id || ' waits for ' || substr(t.value, 7)
from perdure_runs w join json_each(case when json_valid(w.waiting_for) then w.waiting_for end) t
  join perdure_runs c on c.id = substr(t.value, 7)
where w.owner is null and w.status in ('waiting', 'cancelling', 'compensating') and t.value glob 'child:*'
  and c.status in ('completed', 'failed', 'cancelled')
  and not exists (
    select 1 from perdure_inbox i where i.run = w.number and i.topic = t.value and i.taken_seq is null
  )
order by w.number limit :most;

-- name: ill_child_strange(most)
-- differs: json_each.
select count(*) over (), w.id || ' waits for ' || substr(t.value, 7)
from perdure_runs w join json_each(case when json_valid(w.waiting_for) then w.waiting_for end) t
  left join perdure_runs c on c.id = substr(t.value, 7)
where w.owner is null and w.status in ('waiting', 'cancelling', 'compensating') and t.value glob 'child:*'
  and (c.number is null or c.parent is not w.number)
  and not exists (
    select 1 from perdure_inbox i where i.run = w.number and i.topic = t.value and i.taken_seq is null
  )
order by w.number limit :most;

-- name: ill_unread(now, most)
-- differs: json_each, glob.
-- Not what has become due since the doctor looked at the clock: a minute covers the time that it takes.
select count(*) over (), r.id from perdure_runs r
where r.owner is null and r.rank is null and r.status in ('waiting', 'cancelling', 'compensating')
  and (r.due_at is null or r.due_at > :now + 60000000)
  and exists (
    select 1 from perdure_inbox i
    where i.run = r.number and i.taken_seq is null and (
      i.topic glob 'control:*' or i.topic in (
        select value from json_each(case when json_valid(r.waiting_for) then r.waiting_for end)
      )
    )
  )
order by r.number limit :most;

-- name: ill_unknown_workflow(now, most)
-- differs: json_each.
-- Due, and no live worker knows the workflow; one row per workflow.
select sum(count(*)) over (), r.workflow || ' (' || count(*) || ')' from perdure_runs r
where (r.due_at <= :now or r.rank is not null) and r.workflow <> '~durable'
  and exists (select 1 from perdure_workers a where a.state = 'alive' and a.lease_until >= :now)
  and not exists (
    select 1 from perdure_workers w, json_each(w.workflows) k
    where w.state = 'alive' and w.lease_until >= :now and k.value = r.workflow
  )
group by r.workflow
order by r.workflow limit :most;

-- name: ill_overdue(now, since, most)
-- differs: json_each.
select count(*) over (), r.id from perdure_runs r
where r.due_at <= :since and r.slot <> 1
  and exists (
    select 1 from perdure_workers w, json_each(w.workflows) k
    where w.state = 'alive' and w.lease_until >= :now and k.value = r.workflow
  )
order by r.due_at, r.number limit :most;

-- name: ill_poison(most)
-- differs: json_extract.
select count(*) over (), id from perdure_runs
where status = 'paused' and json_valid(reason) and json_extract(reason, '$.code') = 'poison'
order by number limit :most;

-- name: ill_stopped(most)
-- differs: json_extract.
select count(*) over (), id || ': ' || json_extract(reason, '$.code') from perdure_runs
where status = 'paused' and json_valid(reason)
  and json_extract(reason, '$.code') not in ('operator', 'poison', 'divergence')
order by number limit :most;

-- name: ill_diverged(since, most)
-- differs: json_extract.
select count(*) over (), id from perdure_runs
where status = 'paused' and json_valid(reason) and json_extract(reason, '$.code') = 'divergence'
  and json_extract(reason, '$.at') <= :since
order by number limit :most;

-- name: ill_file()
-- differs: SQLite's own check of the file.
pragma quick_check(20);

-- name: file_size()
-- differs: SQLite's pages.
select page_count * page_size from pragma_page_count(), pragma_page_size();
