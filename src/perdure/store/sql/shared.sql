-- Statements that every database takes as written.
-- Heading: -- name: statement(parameters).  A first parameter `tag` is the runner's: rows that a statement returns begin
-- with it, so that they find their operation. (`status || ''`: Postgres shall not look a run up among all of its status.)

-- name: guard(tag, id, epoch, status)
-- A row comes back, and the operation ends there, when the run is no longer as the caller has seen it.
select :tag, 'stale'
where not exists (
  select 1 from perdure_runs where id = :id and epoch = :epoch and status = :status and owner is null
);

-- name: guard_there(tag, number)
select :tag, 'stale' where not exists (select 1 from perdure_runs where number = :number);

-- name: guard_vacant(tag, id)
select :tag, 'stale' where exists (select 1 from perdure_runs where id = :id);

-- name: guard_blob(tag, hash)
select :tag, 'stale' where not exists (select 1 from perdure_blobs where hash = :hash);

-- name: start(tag, id, workflow, status, owner, epoch, due_at, input, seed, created_at, started_at, deadline_at, forked_from)
-- No row back: the id is taken.
insert into perdure_runs (
  id, workflow, status, owner, epoch, due_at, input, seed, created_at, started_at, deadline_at, forked_from
) values (
  :id, :workflow, :status, :owner, :epoch, :due_at, :input, :seed, :created_at, :started_at, :deadline_at,
  :forked_from
)
on conflict (id) do nothing
returning :tag, 'started', number;

-- name: start_child(tag, id, workflow, input, seed, now, deadline_at, detached, parent, epoch)
-- No row back: the id is taken, or the parent is no longer ours.
insert into perdure_runs (
  id, workflow, status, due_at, input, seed, created_at, deadline_at, detached, parent, root
)
select :id, :workflow, 'queued', :now, :input, :seed, :now, :deadline_at, :detached, number, coalesce(root, number)
from perdure_runs
where number = :parent and epoch = :epoch and owner is not null
on conflict (id) do nothing
returning :tag, 'child', id;

-- name: fork_child(id, workflow, input, seed, now, deadline_at, detached, parent_id)
-- What a fork waits for in place of a child of the run that it was forked from.
insert into perdure_runs (
  id, workflow, status, due_at, input, seed, created_at, deadline_at, detached, parent, root
)
select :id, :workflow, 'queued', :now, :input, :seed, :now, :deadline_at, :detached, number, number
from perdure_runs where id = :parent_id;

-- name: add_tag(id, name)
insert into perdure_tags (tag, run)
select :name, number from perdure_runs where id = :id
on conflict (tag, run) do nothing;

-- name: start_trace(id, now, trace)
-- Of a run that this commit has inserted.
insert into perdure_traces (run, trace)
select number, :trace from perdure_runs where id = :id and created_at = :now and finished_at is null
on conflict (run) do nothing;

-- name: trace_run(run, epoch, trace)
insert into perdure_traces (run, trace)
select number, :trace from perdure_runs where number = :run and epoch = :epoch and owner is not null
on conflict (run) do update set trace = excluded.trace;

-- name: add_blob_ref(id, hash)
insert into perdure_blob_refs (run, hash)
select number, :hash from perdure_runs where id = :id
on conflict (run, hash) do nothing;

-- name: copy_entry(id, seq, kind, key, at, data, started_at, attempt, fingerprint)
-- A fork's first entries, taken from the run it was forked from.
insert into perdure_journal (run, seq, kind, key, at, data, started_at, attempt, fingerprint)
select number, :seq, :kind, :key, :at, :data, :started_at, :attempt, :fingerprint
from perdure_runs
where id = :id and epoch = 0 and started_at is null;

-- name: take(run, epoch, message)
delete from perdure_inbox
where id = :message and run = :run and key is null
  and exists (select 1 from perdure_runs where number = :run and epoch = :epoch and owner is not null);

-- name: take_keyed(run, epoch, message, seq)
-- Keyed messages stay, so that a second one under the key is recognised.
update perdure_inbox set taken_seq = :seq
where id = :message and run = :run and taken_seq is null
  and exists (select 1 from perdure_runs where number = :run and epoch = :epoch and owner is not null);

-- name: send(tag, run_id, topic, key, data, now)
-- No row back: no such run, it has ended, or a message under this key came first.
insert into perdure_inbox (run, topic, key, data, sent_at)
select number, :topic, :key, :data, :now
from perdure_runs
where id = :run_id and status not in ('completed', 'failed', 'cancelled')
on conflict (run, topic, key) where key is not null do nothing
returning :tag, 'sent', run;

-- name: ask_children(tag, run, epoch, data, now)
-- Cancellation reaches the children that are not detached.
insert into perdure_inbox (run, topic, data, sent_at)
select number, 'control:cancel', :data, :now
from perdure_runs
where parent = :run and detached = 0 and status not in ('completed', 'failed', 'cancelled', 'cancelling')
  and exists (select 1 from perdure_runs p where p.number = :run and p.epoch = :epoch and p.owner is not null)
returning :tag, 'asked', run;

-- name: cancel_children(run, epoch, now)
-- The status says at once that they are to end, which those that compensate will; their drivers do the rest.
update perdure_runs
set status = case status when 'compensating' then status else 'cancelling' end, reason = null,
  due_at = case when owner is null then :now end, slot = case slot when 1 then 0 else slot end, rank = null
where parent = :run and detached = 0 and status in ('queued', 'running', 'waiting', 'paused', 'compensating')
  and exists (select 1 from perdure_runs p where p.number = :run and p.epoch = :epoch and p.owner is not null);

-- name: ask_child(tag, id, parent, epoch, data, now)
-- The owner of its parent asks this run to end; a stranger's that has the child's id is left alone.
insert into perdure_inbox (run, topic, data, sent_at)
select number, 'control:cancel', :data, :now
from perdure_runs
where id = :id and parent + 0 = :parent and status not in ('completed', 'failed', 'cancelled')
  and exists (select 1 from perdure_runs p where p.number = :parent and p.epoch = :epoch and p.owner is not null)
returning :tag, 'asked', run;

-- name: cancel_child(id, parent, epoch, now)
update perdure_runs
set status = case status when 'compensating' then status else 'cancelling' end, reason = null,
  due_at = case when owner is null then :now end, slot = case slot when 1 then 0 else slot end, rank = null
where id = :id and parent + 0 = :parent and status in ('queued', 'running', 'waiting', 'paused', 'compensating')
  and exists (select 1 from perdure_runs p where p.number = :parent and p.epoch = :epoch and p.owner is not null);

-- name: release(run, epoch, now)
-- Give the run back, due at once: the worker leaves, or the run begins anew with other input.
update perdure_runs
set owner = null, epoch = epoch + 1, due_at = :now, waiting_for = null,
  status = case status when 'running' then 'queued' else status end
where number = :run and epoch = :epoch and owner is not null;

-- name: renew(run, epoch, input)
-- continue_as_new: the history so far goes, the run begins again with this input.
-- The first input stays, so that a second start of the id can be compared with it.
update perdure_runs
set first_input = coalesce(first_input, input), input = :input, takeovers = 0, takeover_seq = null
where number = :run and epoch = :epoch and owner is not null;

-- name: compensate(run, epoch)
-- What the run did is being undone; from here it can only end.
update perdure_runs set status = 'compensating'
where number = :run and epoch = :epoch and owner is not null and status in ('running', 'cancelling');

-- name: due_now(tag, now, most)
-- Before a claim, for metrics: since when the runs are due that it may take.
select :tag, 'due', number, due_at from perdure_runs
where due_at is not null and slot = 0 and due_at <= :now order by due_at, number limit :most;

-- name: clear_suspicion(run, epoch)
-- The run has made progress since its worker died.
update perdure_runs set takeovers = 0 where number = :run and epoch = :epoch and owner is not null;

-- name: forget(run, epoch, seq)
-- What is still to be delivered to a sink stays until the next time.
delete from perdure_journal
where run = :run and seq < :seq and seq < coalesce((select min(o.next) from perdure_outbox o where o.run = :run), :seq)
  and exists (select 1 from perdure_runs where number = :run and epoch = :epoch and owner is not null);

-- name: forget_refs(run, epoch)
-- After forget and renew: the blobs that only the forgotten history had are nobody's, and the next prune drops them.
delete from perdure_blob_refs
where run = :run
  and exists (
    select 1 from perdure_runs r where r.number = :run and r.epoch = :epoch and r.owner is not null
      and '@' || hash not in (r.input, coalesce(r.first_input, ''))
  )
  and not exists (select 1 from perdure_journal j where j.run = :run and j.data = '@' || hash)
  and not exists (select 1 from perdure_inbox i where i.run = :run and i.taken_seq is null and i.data = '@' || hash)
  and not exists (select 1 from perdure_inbox i where i.run = :run and i.key is not null and i.data = '@' || hash);

-- name: pause_own(run, epoch, reason)
update perdure_runs
set status = 'paused', reason = :reason, owner = null, due_at = null, waiting_for = null, epoch = epoch + 1,
  slot = case slot when 2 then 1 else slot end
where number = :run and epoch = :epoch and owner is not null;

-- name: cancel_paused(run, epoch, now)
-- With pause_own, and the epoch that it gives: a run that somebody asked to end meanwhile does not rest.
update perdure_runs
set status = 'cancelling', reason = null, due_at = :now, slot = case slot when 1 then 0 else slot end
where number = :run and epoch = :epoch and status || '' = 'paused'
  and exists (select 1 from perdure_inbox i where i.run = :run and i.taken_seq is null and i.topic = 'control:cancel');

-- name: notify_parent(tag, run, epoch, status, topic, now)
-- The result itself stays in the child's row; the message says whose it is.
insert into perdure_inbox (run, topic, sender, sent_at)
select p.number, :topic, c.number, :now
from perdure_runs c join perdure_runs p on p.number = c.parent
where c.number = :run and c.epoch = :epoch and c.status = :status and c.owner is null and c.finished_at = :now
  and p.status not in ('completed', 'failed', 'cancelled')
returning :tag, 'notified', run;

-- name: cancel(tag, id, now)
-- The status says at once that the run is to end, which one that compensates will; its driver does the rest, and
-- stands in no line for it.
update perdure_runs
set status = case status when 'compensating' then status else 'cancelling' end, reason = null,
  due_at = case when owner is null then :now end, slot = case slot when 1 then 0 else slot end, rank = null
where id = :id and status in ('queued', 'running', 'waiting', 'paused', 'compensating')
returning :tag, 'cancelling', number, owner;

-- name: pause_idle(tag, id, epoch, reason)
update perdure_runs
set status = 'paused', reason = :reason, due_at = null, waiting_for = null, epoch = epoch + 1,
  slot = case slot when 2 then 1 else slot end, rank = null
where id = :id and epoch = :epoch and owner is null and status in ('queued', 'waiting')
returning :tag, 'paused', number;

-- name: ask_pause(tag, id, data, now)
insert into perdure_inbox (run, topic, data, sent_at)
select number, 'control:pause', :data, :now
from perdure_runs
where id = :id and owner is not null and status || '' = 'running'
returning :tag, 'asked', run;

-- name: note(id, epoch, kind, data, now)
-- An entry about a run that nobody drives, written by what has just given it this epoch.
insert into perdure_journal (run, seq, kind, key, at, data)
select number, (select coalesce(max(j.seq), 0) + 1 from perdure_journal j where j.run = r.number), :kind, '',
  :now, :data
from perdure_runs r
where id = :id and epoch = :epoch and owner is null;

-- name: note_pause(run, epoch, data, now)
-- The entry of a pause by the owner of a run, who does not know where its journal ends.
insert into perdure_journal (run, seq, kind, key, at, data)
select number, (select coalesce(max(j.seq), 0) + 1 from perdure_journal j where j.run = r.number), 'paused', '',
  :now, :data
from perdure_runs r
where number = :run and epoch = :epoch and owner is null and status || '' = 'paused' and coalesce(
  (select j.kind from perdure_journal j where j.run = r.number order by j.seq desc limit 1), ''
) <> 'paused';

-- name: note_poison(reason, data, now)
-- The entries of the runs that expire_runs has just paused, for this reason.
insert into perdure_journal (run, seq, kind, key, at, data)
select number, (select coalesce(max(j.seq), 0) + 1 from perdure_journal j where j.run = r.number), 'paused', '',
  :now, :data
from perdure_runs r
where status = 'paused' and reason = :reason and coalesce(
  (select j.kind from perdure_journal j where j.run = r.number order by j.seq desc limit 1), ''
) <> 'paused';

-- name: resolve(id, epoch, key, data, now)
-- An operator has decided what becomes of a compensation that failed; comes with the resumption of its run.
insert into perdure_journal (run, seq, kind, key, at, data)
select number, (select coalesce(max(j.seq), 0) + 1 from perdure_journal j where j.run = r.number), 'step_resolved',
  :key, :now, :data
from perdure_runs r
where id = :id and epoch = :epoch and owner is null;

-- name: resume(tag, id, epoch, now)
update perdure_runs
set status = 'queued', reason = null, due_at = :now, epoch = epoch + 1, takeovers = 0
where id = :id and epoch = :epoch and status || '' = 'paused'
returning :tag, 'resumed', number;

-- name: rerun(tag, id, epoch, now)
-- A new generation of an ended or paused run. Its predecessor's end stays in the journal's rerun entry.
update perdure_runs
set generation = generation + 1, status = 'queued', due_at = :now, epoch = epoch + 1, output = null, error = null,
  reason = null, finished_at = null, deadline_at = null, waiting_for = null, takeovers = 0, takeover_seq = null,
  slot = case when queue is null then 0 else 1 end, ticket = null
where id = :id and epoch = :epoch and owner is null
  and status in ('completed', 'failed', 'cancelled', 'paused')
returning :tag, 'rerun', number;

-- name: move_version(tag, id, epoch, workflow)
-- The new epoch keeps a worker that has the run's coroutine in memory from going on with the old code.
update perdure_runs set workflow = :workflow, epoch = epoch + 1
where id = :id and epoch = :epoch and owner is null and status not in ('completed', 'failed', 'cancelled')
returning :tag, 'moved', number;

-- name: drop_taken(id, seq)
-- A keyed message whose entry a rerun drops; it comes back by restore.
delete from perdure_inbox
where run = (select number from perdure_runs where id = :id) and key is not null and taken_seq = :seq;

-- name: drop_control(id, topic)
-- An old request to end or to pause does not hold for a run that an operator lets go on.
delete from perdure_inbox
where run = (select number from perdure_runs where id = :id) and topic = :topic and taken_seq is null;

-- name: recall(id)
-- A child that runs again has not ended yet for a parent that has not looked.
delete from perdure_inbox
where run = (select parent from perdure_runs where id = :id) and taken_seq is null
  and sender = (select number from perdure_runs where id = :id);

-- name: tell_end(id, child, topic, now)
-- A run that is forked or run again is told of a child that ended before, unless it has this in its inbox.
insert into perdure_inbox (run, topic, sender, sent_at)
select r.number, :topic, c.number, :now
from perdure_runs r join perdure_runs c on c.id = :child
where r.id = :id and c.status in ('completed', 'failed', 'cancelled')
  and not exists (
    select 1 from perdure_inbox i where i.run = r.number and i.topic = :topic and i.taken_seq is null
  );

-- name: free_id(id)
-- A chosen id is free again once its worker has left or died; the old row stays, under another name.
update perdure_workers set id = id || '#' || number where id = :id and state <> 'alive';

-- name: register_worker(tag, id, host, place, pid, workflows, now, lease_until)
-- No row back: the id is in use.
insert into perdure_workers (id, host, place, pid, workflows, state, started_at, heartbeat_at, lease_until)
values (:id, :host, :place, :pid, :workflows, 'alive', :now, :now, :lease_until)
on conflict (id) do nothing
returning :tag, 'registered', number;

-- name: heartbeat(tag, worker, now, lease_until)
-- No row back: others have declared this worker dead.
update perdure_workers set heartbeat_at = :now, lease_until = :lease_until
where number = :worker and state = 'alive'
returning :tag, 'alive';

-- name: learn(worker, workflows)
-- A workflow was registered while the worker runs.
update perdure_workers set workflows = :workflows where number = :worker and state = 'alive';

-- name: leave(worker, now)
update perdure_workers set state = 'left', lease_until = :now where number = :worker and state = 'alive';

-- name: declare_dead(worker, now)
-- Its process is known to be gone, so nobody need wait for its lease to end.
update perdure_workers set state = 'dead', lease_until = :now where number = :worker and state = 'alive';

-- name: bury(now)
update perdure_workers set state = 'dead' where state = 'alive' and lease_until < :now;

-- name: take_chore(tag, name, now, until)
-- A row comes back for whoever may do it now; for the others it is not due again before `until`.
insert into perdure_chores (name, until) values (:name, :until)
on conflict (name) do update set until = excluded.until where perdure_chores.until <= :now
returning :tag, 'chore';

-- name: forget_workers(before)
delete from perdure_workers
where state <> 'alive' and lease_until < :before
  and not exists (select 1 from perdure_runs r where r.owner = perdure_workers.number and r.owner > 0);

-- ------------------------------------------------------------------------------------------ reading

-- name: run_by_id(id)
select * from perdure_runs where id = :id;

-- name: run_by_number(number)
select * from perdure_runs where number = :number;

-- name: blob(hash)
select data from perdure_blobs where hash = :hash;

-- name: tags_of(run)
select tag from perdure_tags where run = :run order by tag;

-- name: taken_keyed(run, seq)
-- Keyed messages stay after they were taken.
select taken_seq, topic, key, data, sent_at from perdure_inbox
where run = :run and key is not null and taken_seq > :seq;

-- name: workers()
select number, id, host, place, pid, workflows, state, started_at, heartbeat_at, lease_until,
  (select count(*) from perdure_runs r where r.owner = w.number and r.owner > 0)
from perdure_workers w order by number;

-- name: known_workflows(now)
select workflows from perdure_workers where state = 'alive' and lease_until >= :now order by number;

-- name: suspects()
-- Workers that count as alive, or own runs or deliveries though they do not, even if they have been forgotten.
select number, place, pid, state, lease_until from perdure_workers w
where state = 'alive' or exists (select 1 from perdure_runs r where r.owner = w.number and r.owner > 0)
union
select w.number, w.place, w.pid, w.state, w.lease_until
from (select distinct owner from perdure_outbox where owner is not null) o join perdure_workers w on w.number = o.owner
union
select distinct owner, '', 0, 'unknown', 0 from perdure_runs r
where owner > 0 and not exists (select 1 from perdure_workers w where w.number = r.owner)
union
select distinct owner, '', 0, 'unknown', 0 from perdure_outbox o
where owner is not null and not exists (select 1 from perdure_workers w where w.number = o.owner)
order by 1;

-- name: backlog(now, most)
-- How many runs are due that nobody has claimed, counted up to a limit, and since when the first of them is. Those of
-- run_durable are no work for workers.
select count(*), min(due_at) from (
  select due_at from perdure_runs
  where due_at is not null and slot = 0 and due_at <= :now and workflow <> '~durable' order by due_at limit :most
) chosen;

-- name: counts()
select status, count(*) from perdure_runs group by status;
