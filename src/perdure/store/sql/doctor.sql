-- What the doctor asks, where every database takes it as written. Each query finds what is wrong: the number of
-- all finds and the name of one in each row, as many rows as examples are wanted.

-- name: ill_unowned_running(most)
select count(*) over (), id from perdure_runs where status = 'running' and owner is null
order by number limit :most;

-- name: ill_owned_idle(most)
select count(*) over (), id from perdure_runs where status in ('queued', 'waiting', 'paused') and owner > 0
order by number limit :most;

-- name: ill_owner_unknown(most)
select count(*) over (), r.id from perdure_runs r
where r.owner > 0 and not exists (select 1 from perdure_workers w where w.number = r.owner)
order by r.number limit :most;

-- name: ill_owner_gone(now, most)
select count(*) over (), r.id from perdure_runs r join perdure_workers w on w.number = r.owner and r.owner > 0
where w.state <> 'alive' or w.lease_until < :now
order by r.number limit :most;

-- name: ill_never_due(most)
-- Unfinished, nobody's, not due, not paused, and waiting for nothing that has a name.
select count(*) over (), id from perdure_runs
where owner is null and due_at is null and rank is null
  and status in ('queued', 'waiting', 'compensating', 'cancelling')
  and (status = 'queued' or waiting_for is null or waiting_for = '[]')
order by number limit :most;

-- name: ill_paused_due(most)
select count(*) over (), id from perdure_runs where status = 'paused' and due_at is not null
order by number limit :most;

-- name: ill_status(most)
select count(*) over (), id || ' (' || status || ')' from perdure_runs
where status not in (
  'queued', 'running', 'waiting', 'paused', 'compensating', 'cancelling', 'completed', 'failed', 'cancelled'
)
order by number limit :most;

-- name: ill_moves()
-- The table of legal moves, to be compared with the code's.
select old, new from perdure_moves order by old, new;

-- name: ill_end(most)
select count(*) over (), id from perdure_runs
where status in ('completed', 'failed', 'cancelled') and (
  finished_at is null or owner is not null or due_at is not null
  or (status = 'completed' and (output is null or error is not null))
  or (status <> 'completed' and (output is not null or error is null))
)
order by number limit :most;

-- name: ill_not_ended(most)
select count(*) over (), id from perdure_runs
where status not in ('completed', 'failed', 'cancelled')
  and (finished_at is not null or output is not null or error is not null)
order by number limit :most;

-- name: ill_gaps(most)
-- A journal counts from 1 without gaps. After continue_as_new it may begin with any number, at the entry that says so or
-- before it, where a sink had not got the last ones yet.
select count(*) over (), coalesce(r.id, 'run number ' || j.run)
from (
  select run, count(*) as entries, min(seq) as first, max(seq) as last from perdure_journal group by run
) j left join perdure_runs r on r.number = j.run
where j.last - j.first + 1 <> j.entries
  or (j.first <> 1 and not exists (
    select 1 from perdure_journal f where f.run = j.run and f.seq >= j.first and f.kind = 'continued'
  ))
order by j.run limit :most;

-- name: ill_last_entry(most)
-- A finished run's last entry is its end, and no other run's is one.
select count(*) over (), r.id
from perdure_runs r left join perdure_journal j
  on j.run = r.number and j.seq = (select max(m.seq) from perdure_journal m where m.run = r.number)
where case when r.status in ('completed', 'failed', 'cancelled') then coalesce(j.kind, '') <> r.status
  else coalesce(j.kind, '') in ('completed', 'failed', 'cancelled') end
order by r.number limit :most;

-- name: ill_orphans(most)
-- Rows that belong to runs that are not there.
select count(*) over (), what || ' of run number ' || run
from (
  select distinct 'journal' as what, run from perdure_journal
  union all select distinct 'inbox', run from perdure_inbox
  union all select distinct 'tags', run from perdure_tags
  union all select distinct 'artifacts', run from perdure_artifacts
  union all select distinct 'blob references', run from perdure_blob_refs
  union all select distinct 'outbox', run from perdure_outbox
  union all select distinct 'annotations', run from perdure_annotations
  union all select distinct 'usage', run from perdure_usage
) o
where not exists (select 1 from perdure_runs r where r.number = o.run)
order by run, what limit :most;

-- name: ill_dead_events(most)
-- One row per sink.
select sum(count(*)) over (), sink || ' (' || count(*) || ' run(s))' from perdure_outbox
where dead_at is not null group by sink order by sink limit :most;

-- name: ill_undelivered(late, most)
-- Nobody takes them, though they have been due for long; one row per sink.
select sum(count(*)) over (), sink || ' (' || count(*) || ' run(s))' from perdure_outbox
where dead_at is null and owner is null and due_at <= :late group by sink order by sink limit :most;

-- name: ill_parent(most)
select count(*) over (), c.id from perdure_runs c left join perdure_runs p on p.number = c.parent
where (c.parent is not null and p.number is null)
  or coalesce(c.root, -1) <> coalesce(p.root, p.number, -1)
order by c.number limit :most;

-- name: ill_left_behind(most)
-- Children that should have been asked to end with their parent. One that is run again goes on by an operator's will.
select count(*) over (), c.id from perdure_runs c join perdure_runs p on p.number = c.parent
where p.status in ('failed', 'cancelled') and c.detached = 0 and c.generation = 1
  and c.status in ('queued', 'running', 'waiting')
order by c.number limit :most;

-- name: ill_blob_missing(most)
select count(*) over (), what
from (
  select r.id || ' refers to ' || b.hash as what from perdure_blob_refs b join perdure_runs r on r.number = b.run
  where not exists (select 1 from perdure_blobs s where s.hash = b.hash)
  union all
  select r.id || ' holds ' || p.data
  from (
    select run, data from perdure_journal where data like '@%'
    union all select run, data from perdure_inbox where data like '@%'
    union all select number, input from perdure_runs where input like '@%'
    union all select number, first_input from perdure_runs where first_input like '@%'
    union all select number, output from perdure_runs where output like '@%'
    union all select number, error from perdure_runs where error like '@%'
  ) p join perdure_runs r on r.number = p.run
  where not exists (select 1 from perdure_blob_refs b where b.run = p.run and b.hash = substr(p.data, 2))
) m
order by what limit :most;

-- name: ill_blob_unused(most)
select count(*) over (), hash from perdure_blobs b
where not exists (select 1 from perdure_blob_refs r where r.hash = b.hash)
order by hash limit :most;

-- name: ill_no_worker(now, most)
select count(*) over (), r.id from perdure_runs r
where (r.due_at <= :now or r.rank is not null) and r.workflow <> '~durable'
  and not exists (select 1 from perdure_workers w where w.state = 'alive' and w.lease_until >= :now)
order by r.due_at, r.number limit :most;

-- name: ill_lone(now, most)
-- Only a call of run_durable has the function of such a run.
select count(*) over (), r.id from perdure_runs r
where r.due_at <= :now and r.workflow = '~durable' order by r.due_at, r.number limit :most;

-- name: ill_queue_missing(most)
-- Runs of a queue that has no row, so that no worker looks for them. Those being cancelled need no slot.
select count(*) over (), r.id || ' (' || r.queue || ')' from perdure_runs r
where r.queue is not null and r.slot > 0 and r.finished_at is null and r.owner is null and r.status <> 'paused'
  and not exists (select 1 from perdure_queues q where q.name = r.queue)
order by r.number limit :most;

-- name: ill_slot(most)
-- Somebody drives them, and they have no slot; or they have ended or are paused, and are still in line.
select count(*) over (), id from perdure_runs
where (owner is not null and slot = 1) or (queue is null and slot > 0)
  or (rank is not null and (finished_at is not null or status = 'paused'))
order by number limit :most;

-- name: ill_over_limit(most)
-- More slots are held than the queue allows: by all runs, or by those of one key.
select count(*) over (), what from (
  select q.name || ': ' || count(*) || ' of ' || q.concurrency as what
  from perdure_queues q join perdure_runs r on r.queue = q.name
  where r.slot = 2 and r.finished_at is null and q.concurrency is not null
  group by q.name, q.concurrency having count(*) > q.concurrency
  union all
  select q.name || ', key ' || r.queue_key || ': ' || count(*) || ' of ' || q.per_key
  from perdure_queues q join perdure_runs r on r.queue = q.name
  where r.slot = 2 and r.finished_at is null and q.per_key is not null
  group by q.name, r.queue_key, q.per_key having count(*) > q.per_key
) t
order by what limit :most;

-- name: ill_queue_paused(most)
select sum(count(*)) over (), q.name || ' (' || count(*) || ')'
from perdure_queues q join perdure_runs r on r.queue = q.name
where q.state = 'paused' and r.rank is not null
group by q.name order by q.name limit :most;

-- name: ill_queue_stuck(most)
-- Each slot is held by a run that waits, and what some of them wait for stands in the line of the same queue.
select count(*) over (), q.name from perdure_queues q
where q.concurrency is not null and exists (
    select 1 from perdure_runs c join perdure_runs p on p.number = c.parent
    where c.queue = q.name and c.rank is not null and p.queue = q.name and p.slot = 2 and p.finished_at is null
  )
  and (select count(*) from perdure_runs h where h.queue = q.name and h.slot = 2 and h.finished_at is null)
    >= q.concurrency
  and not exists (
    select 1 from perdure_runs h
    where h.queue = q.name and h.slot = 2 and h.finished_at is null and (h.owner is not null or h.due_at is not null)
  )
order by q.name limit :most;

-- name: ill_schema()
select max(version) from perdure_schema;

-- name: sizes()
select (select count(*) from perdure_runs), (select count(*) from perdure_journal),
  (select count(*) from perdure_inbox), (select coalesce(sum(size), 0) from perdure_blobs);
