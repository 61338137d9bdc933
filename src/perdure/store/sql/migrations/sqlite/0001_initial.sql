-- The whole state of perdure in one SQLite file.
-- Times are microseconds since 1970; payloads are JSON text, sealed text (~codec:…) or a blob's name (@hash).

create table perdure_schema (
  version integer primary key,
  name text not null,
  applied_at integer not null
) strict;

-- Worker processes. A row stays as the record of who once owned what, until it is pruned. Its number is never
-- used again: a process that wakes up later must not pass for another worker.
create table perdure_workers (
  number integer primary key autoincrement,
  id text not null unique,
  host text not null,
  place text not null,
  pid integer not null,
  workflows text not null,
  state text not null check (state in ('alive', 'left', 'dead')),
  started_at integer not null,
  heartbeat_at integer not null,
  lease_until integer not null
) strict;

-- One row per run: a run is a row that becomes due.
create table perdure_runs (
  number integer primary key autoincrement,
  id text not null unique,
  workflow text not null,
  status text not null,
  generation integer not null default 1,
  owner integer,
  epoch integer not null default 0,
  due_at integer,
  waiting_for text,
  parent integer,
  root integer,
  detached integer not null default 0,
  input text not null,
  output text,
  error text,
  reason text,
  seed integer not null,
  created_at integer not null,
  started_at integer,
  finished_at integer,
  deadline_at integer,
  takeovers integer not null default 0,
  takeover_seq integer,
  forked_from text,
  -- The queue that it goes through, if any: see docs/adr/0009-queues.md.
  queue text,
  queue_key text not null default '',
  priority integer not null default 0,
  weight integer not null default 1,
  -- 0: needs none; 1: wants one of its queue; 2: holds one.
  slot integer not null default 0 check (slot in (0, 1, 2)),
  -- Its place while it stands in the line of its key; the smallest comes first.
  rank integer,
  -- Its last slot's number among all that the queue has given out, and when it got it.
  ticket integer,
  slot_at integer,
  -- what it was started with, once continue_as_new has replaced its input
  first_input text,
  -- I8 in one line: whoever is owned is not due as well.
  check (owner is null or due_at is null),
  check (rank is null or (slot = 1 and owner is null and due_at is null))
) strict;
-- claim, any_due, due_now, backlog, next_due: the runs that are due and need no queue's leave
create index perdure_runs_due on perdure_runs (due_at) where due_at is not null and slot = 0;
-- expire_runs, suspects, workers, claim, claim_held, claim_line, owned_in_queue, forget_workers: the runs of one worker
create index perdure_runs_owner on perdure_runs (owner, queue) where owner is not null;
-- line_up, claim_held, next_due, queue_ready, queue_gauges: the runs of a queue that are due, with a slot and without
create index perdure_runs_queue_due on perdure_runs (queue, slot, due_at) where due_at is not null and slot > 0;
-- claim_line, next_due, queue_ready, place_in_line, queue_gauges: who stands in line, key by key
create index perdure_runs_line on perdure_runs (queue, queue_key, rank, number, workflow) where rank is not null;
-- claim_line, queue_counts, queue_gauges: the slots that are taken, key by key
create index perdure_runs_slots on perdure_runs (queue, queue_key) where slot = 2 and finished_at is null;
-- remove_queue, dead_letters, dead_count, queue_gauges: the runs of a queue, by status
create index perdure_runs_queue on perdure_runs (queue, status, number) where queue is not null;
-- counts, note_poison, list by status: the runs of one status
create index perdure_runs_status on perdure_runs (status, number);
-- list by workflow: the runs of one workflow
create index perdure_runs_workflow on perdure_runs (workflow, number);
-- ask_children, cancel_children, usage_of, doom, list by parent: the children of one run
create index perdure_runs_parent on perdure_runs (parent, number) where parent is not null;
-- doom: whether a tree still has unfinished runs
create index perdure_runs_root on perdure_runs (root) where root is not null and finished_at is null;
-- doom: trees by the time they ended
create index perdure_runs_finished on perdure_runs (finished_at) where finished_at is not null and parent is null;

-- The legal moves of a run's status, the same table as MOVES in model/status.py.
create table perdure_moves (
  old text not null,
  new text not null,
  primary key (old, new)
) strict, without rowid;
insert into perdure_moves (old, new) values
  ('queued', 'running'), ('queued', 'paused'), ('queued', 'cancelling'),
  ('running', 'queued'), ('running', 'waiting'), ('running', 'paused'), ('running', 'compensating'),
  ('running', 'cancelling'), ('running', 'completed'), ('running', 'failed'), ('running', 'cancelled'),
  ('waiting', 'running'), ('waiting', 'queued'), ('waiting', 'paused'), ('waiting', 'cancelling'),
  ('paused', 'queued'), ('paused', 'cancelling'),
  ('compensating', 'paused'), ('compensating', 'cancelling'), ('compensating', 'completed'),
  ('compensating', 'failed'), ('compensating', 'cancelled'),
  ('cancelling', 'paused'), ('cancelling', 'compensating'), ('cancelling', 'completed'),
  ('cancelling', 'failed'), ('cancelling', 'cancelled');
-- I3: a status moves along the table, or a rerun begins a new generation.
create trigger perdure_runs_move before update of status on perdure_runs
when new.status <> old.status
  and not exists (select 1 from perdure_moves m where m.old = old.status and m.new = new.status)
  and not (new.generation = old.generation + 1 and new.status = 'queued')
begin
  select raise(abort, 'perdure: illegal move of a run''s status');
end;
create trigger perdure_runs_final before update on perdure_runs
when old.status in ('completed', 'failed', 'cancelled')
  and not (new.generation = old.generation + 1 and new.status = 'queued')
begin
  select raise(abort, 'perdure: a finished run does not change');
end;
create trigger perdure_runs_first before insert on perdure_runs
when new.status not in ('queued', 'running')
begin
  select raise(abort, 'perdure: a run begins queued or running');
end;

-- What a run did and saw, in order. Only its owner writes it (I1); it only grows.
create table perdure_journal (
  run integer not null,
  seq integer not null,
  kind text not null,
  key text not null,
  at integer not null,
  data text,
  started_at integer,
  attempt integer,
  fingerprint text,
  primary key (run, seq)
) strict;

-- What others say to a run. The owner takes it when the workflow observes it (I9).
create table perdure_inbox (
  id integer primary key autoincrement,
  run integer not null,
  topic text not null,
  key text,
  data text,
  sender integer,
  sent_at integer not null,
  taken_seq integer
) strict;
-- mail, park, tell_end: what a run has not taken yet
create index perdure_inbox_open on perdure_inbox (run, id) where taken_seq is null;
-- taken_keyed, drop_keyed: and the first message under a key wins
create unique index perdure_inbox_key on perdure_inbox (run, topic, key) where key is not null;

create table perdure_tags (
  tag text not null,
  run integer not null,
  primary key (tag, run)
) strict, without rowid;
-- drop_tags, tags_of: the tags of one run
create index perdure_tags_run on perdure_tags (run);

-- What observers keep with a run from one process to the next; only tracing does. Apart from the runs, whose rows
-- stay small.
create table perdure_traces (
  run integer primary key,
  trace text not null
) strict;

-- What steps keep beside the journal under names of their own, such as files. It goes with its run.
create table perdure_artifacts (
  run integer not null,
  name text not null,
  step text not null,
  -- What the data are: JSON of any value, or of bytes as base64.
  form text not null check (form in ('json', 'bytes')),
  media_type text not null,
  -- Of the value, in bytes.
  size integer not null,
  data text not null,
  saved_at integer not null,
  primary key (run, name)
) strict;

-- What one worker does for all, and when it is due again.
create table perdure_chores (
  name text primary key,
  until integer not null
) strict, without rowid;

-- Payloads too large for a row, stored once by content.
create table perdure_blobs (
  hash text primary key,
  size integer not null,
  data text not null
) strict;
create table perdure_blob_refs (
  run integer not null,
  hash text not null,
  primary key (run, hash)
) strict, without rowid;
-- drop_blobs, drop_orphans: whether anybody still refers to a blob
create index perdure_blob_refs_hash on perdure_blob_refs (hash);

-- Queues and their limits; null is no limit. They may be changed while runs go through them.
create table perdure_queues (
  name text primary key,
  state text not null default 'open' check (state in ('open', 'paused', 'draining')),
  concurrency integer,
  per_worker integer,
  per_key integer,
  -- Whether a run that waits gives its slot back and lines up again.
  frees integer not null default 0,
  -- Microseconds of waiting that one level of priority is worth.
  ageing integer not null,
  -- How many slots it has given out, and whose turn was the last.
  served integer not null default 0,
  cursor text not null default '',
  -- What the code that declared it says, so that only a change of the code overrules an operator.
  declared text,
  -- Of the change that was the last, so that its rates are told from those of an attempt that changed nothing.
  mark text not null
) strict;
create table perdure_rates (
  queue text not null,
  place integer not null,
  most integer not null,
  -- Microseconds: the window; how finely it is counted; how long a count counts.
  period integer not null,
  grain integer not null,
  span integer not null,
  by_key integer not null,
  primary key (queue, place)
) strict, without rowid;
-- Weights of the slots given out in the windows that still count.
create table perdure_spent (
  queue text not null,
  place integer not null,
  key text not null,
  at integer not null,
  used integer not null,
  until integer not null,
  primary key (queue, place, key, at)
) strict, without rowid;
-- forget_spent, next_due: which of a queue's counts end first
create index perdure_spent_until on perdure_spent (queue, until);
create trigger perdure_runs_ticket after update of ticket on perdure_runs when new.ticket is not null
begin
  update perdure_queues set served = new.ticket, cursor = new.queue_key
  where name = new.queue and served < new.ticket;
  insert into perdure_spent (queue, place, key, at, used, until)
  select queue, place, iif(by_key = 1, new.queue_key, ''), new.slot_at / grain * grain, min(new.weight, most),
    new.slot_at / grain * grain + span
  from perdure_rates where queue = new.queue
  on conflict (queue, place, key, at) do update set used = used + excluded.used;
end;

-- Names that runs were started under, so that starts are told from repetitions: dedupe, debounce, batch.
create table perdure_names (
  scope text not null,
  name text not null,
  run_id text not null,
  -- Until when it is taken; null: until its run has ended.
  until integer,
  primary key (scope, name)
) strict, without rowid;
-- drop_names: the names of one run
create index perdure_names_run on perdure_names (run_id);
-- forget_names: the names whose time is over
create index perdure_names_until on perdure_names (until) where until is not null;

-- Idempotent commands: one row for each key, while its handler runs and as long as its result is kept.
create table perdure_commands (
  name text not null,
  key text not null,
  -- Of the input, so that another command is told from the same one once more.
  fingerprint text not null,
  -- Changes with every attempt: one that was overtaken by another can store nothing.
  token integer not null,
  begun_at integer not null,
  -- Until when nobody else may try it, and once it has a result: until when that is kept; null: for ever.
  until integer,
  result text,
  primary key (name, key)
) strict, without rowid;
-- forget_commands: the commands whose time is over
create index perdure_commands_until on perdure_commands (until) where until is not null;

-- Where events go: which kinds of journal entries each sink is told of. While there is a sink, and only then, triggers
-- on the journal and on the runs (tell_entries, tell_starts) mark in the outbox what is to be delivered.
create table perdure_sinks (
  kind text not null,
  name text not null,
  -- The time of the first events that it was to get when it was declared.
  since integer not null,
  primary key (kind, name)
) strict, without rowid;

-- One row for each run that has events for a sink: what of its journal is still to be delivered, a cursor into it.
create table perdure_outbox (
  run integer not null,
  sink text not null,
  -- The first run of its tree, which is not pruned meanwhile.
  root integer not null,
  -- The first entry that may not have been delivered, and the last one known; 0 is the run's start.
  next integer not null,
  last integer not null,
  since integer not null,
  due_at integer,
  -- Which worker delivers it now, and the number that changes with each claim.
  owner integer,
  epoch integer not null default 0,
  -- How often the first entry was tried in vain, with which error, and since when it is given up.
  attempts integer not null default 0,
  error text,
  dead_at integer,
  primary key (run, sink),
  check (owner is null or due_at is null)
) strict, without rowid;
-- claim_deliveries, due_deliveries, remove_deliveries: what is to be delivered to a sink, by time
create index perdure_outbox_sink on perdure_outbox (sink, due_at);
-- release_deliveries, expire_deliveries: what one worker delivers
create index perdure_outbox_owner on perdure_outbox (owner) where owner is not null;
-- doom: whether a tree still has events to be delivered
create index perdure_outbox_root on perdure_outbox (root);
-- dead_deliveries, replay_dead: what a sink was given up for
create index perdure_outbox_dead on perdure_outbox (sink, dead_at) where dead_at is not null;
