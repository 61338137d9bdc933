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
-- differs: rows that another claim holds are skipped, not waited for.
update perdure_outbox set owner = :worker, epoch = epoch + 1, due_at = null
where sink = :sink and run = any (array(
  select o.run from perdure_outbox o where o.sink = :sink and o.due_at <= :now order by o.due_at, o.run limit :most
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
