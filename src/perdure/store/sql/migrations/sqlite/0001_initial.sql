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
  -- what it was started with, once continue_as_new has replaced its input
  first_input text,
  -- I8 in one line: whoever is owned is not due as well.
  check (owner is null or due_at is null)
) strict;
-- claim, next_due: the runs that are due
create index perdure_runs_due on perdure_runs (due_at) where due_at is not null;
-- expire_runs, suspects, workers: the runs of one worker
create index perdure_runs_owner on perdure_runs (owner) where owner is not null;
-- counts, list by status: the runs of one status
create index perdure_runs_status on perdure_runs (status, number);
-- list by workflow: the runs of one workflow
create index perdure_runs_workflow on perdure_runs (workflow, number);
-- ask_children, cancel_children, doom, list by parent: the children of one run
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
