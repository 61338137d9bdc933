-- Remarks about runs, for people and reports: by the run, by its steps, by others. Values are sealed, what they are
-- found by is not.
create table perdure_annotations (
  number integer primary key autoincrement,
  run integer not null,
  key text not null,
  value text not null,
  payload text,
  actor text,
  actor_kind text,
  actor_version text,
  scope text not null,
  scope_id text,
  generation integer not null,
  attempt integer,
  dedupe text,
  at integer not null,
  unique (run, key, dedupe)
) strict;
-- annotations_of, drop_annotations: the remarks about one run
create index perdure_annotations_run on perdure_annotations (run, number);
-- annotations_by_key: those of one kind
create index perdure_annotations_subject on perdure_annotations (key, number);
-- annotations_by_actor: those of one author
create index perdure_annotations_actor on perdure_annotations (actor, number) where actor is not null;

-- What steps have used: tokens, time and money, in billionths of whatever unit the caller counts in.
create table perdure_usage (
  number integer primary key autoincrement,
  run integer not null,
  step text not null,
  generation integer not null,
  attempt integer not null,
  topic text not null,
  kind text not null,
  model text not null,
  provider text not null,
  input_tokens integer not null,
  output_tokens integer not null,
  cached_tokens integer not null,
  cost integer not null,
  duration integer not null,
  dedupe text,
  at integer not null,
  unique (run, dedupe)
) strict;
-- usage_of, drop_usage: what one run has used
create index perdure_usage_run on perdure_usage (run);
-- usage_by_topic: what was used for one purpose
create index perdure_usage_topic on perdure_usage (topic);
-- usage_between: what was used in a span of time
create index perdure_usage_at on perdure_usage (at);
