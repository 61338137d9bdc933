-- Sinks and the outbox on Postgres. Each says why it differs from the other databases'.

-- name: tell_entries()
-- differs: a trigger calls a function. It waits for those who write the journal, so that no entry falls between.
create or replace trigger perdure_journal_told after insert on perdure_journal for each row
execute function perdure_tell_entry();

-- name: tell_starts()
-- differs: as tell_entries.
create or replace trigger perdure_runs_told after insert on perdure_runs for each row
execute function perdure_tell_start();

-- name: hush_entries()
-- differs: a trigger belongs to its table.
drop trigger if exists perdure_journal_told on perdure_journal;

-- name: hush_starts()
-- differs: as hush_entries.
drop trigger if exists perdure_runs_told on perdure_runs;

-- name: claim_deliveries(tag, sink, worker, now, most)
-- differs: rows that another claim holds are skipped, not waited for. A worker declared dead gets none, as for claim.
_numbers := array(select number from perdure_workers where number = :worker and state = 'alive' for share);
update perdure_outbox set owner = :worker, epoch = epoch + 1, due_at = null
where sink = :sink and run = any (array(
  select o.run from perdure_outbox o where o.sink = :sink and o.due_at <= :now
    and :worker = any (_numbers)
  order by o.due_at, o.run limit :most
  for no key update skip locked
))
returning :tag, 'delivery', run, sink, next, last, epoch, attempts;

-- name: due_deliveries(sinks)
-- differs: jsonb.
-- When each of these sinks is to be told of something next.
select s, (select min(o.due_at) from perdure_outbox o where o.sink = s) from jsonb_array_elements_text(:sinks::jsonb) s;

-- name: drop_outbox()
-- differs: the doomed are a variable.
delete from perdure_outbox where run = any (_doomed);

-- name: drop_annotations()
-- differs: the doomed are a variable.
delete from perdure_annotations where run = any (_doomed);

-- name: drop_usage()
-- differs: the doomed are a variable.
delete from perdure_usage where run = any (_doomed);

-- name: usage_of(id, deep, topic, model, since, until)
-- differs: with an array of numbers, rows are looked for by the index.
-- Of a run, and of its children down to the last unless `deep` is 0.
with recursive tree (number) as (
  select number from perdure_runs where id = :id
  union all
  select c.number from tree t join perdure_runs c on c.parent = t.number where :deep = 1
)
select u.model, u.provider, u.kind, count(*), sum(u.input_tokens), sum(u.output_tokens), sum(u.cached_tokens),
  sum(u.cost), sum(u.duration)
from perdure_usage u
where u.run = any (array(select t.number from tree t)) and (:topic is null or u.topic = :topic or substr(u.topic, 1, length(:topic) + 1) = :topic || '.')
  and (:model is null or u.model = :model)
  and (:since is null or u.at >= :since) and (:until is null or u.at < :until)
group by u.model, u.provider, u.kind order by u.model, u.provider, u.kind;
