-- Sinks and the outbox on SQLite. Each says why it differs from the other databases'.

-- name: tell_entries()
-- differs: a trigger has no function. Entries that a sink is to be told of are marked in their own commit (I4).
create trigger if not exists perdure_journal_told after insert on perdure_journal
begin
  insert into perdure_outbox (run, sink, root, next, last, since, due_at)
  select new.run, s.name, (select coalesce(r.root, r.number) from perdure_runs r where r.number = new.run), new.seq,
    new.seq, new.at, new.at
  from perdure_sinks s where s.kind = new.kind
  on conflict (run, sink) do update set last = excluded.last;
end;

-- name: tell_starts()
-- differs: as tell_entries.
create trigger if not exists perdure_runs_told after insert on perdure_runs
begin
  insert into perdure_outbox (run, sink, root, next, last, since, due_at)
  select new.number, s.name, coalesce(new.root, new.number), 0, 0, new.created_at, new.created_at
  from perdure_sinks s where s.kind = 'started';
end;

-- name: hush_entries()
-- differs: a trigger has a name of its own.
drop trigger if exists perdure_journal_told;

-- name: hush_starts()
-- differs: as hush_entries.
drop trigger if exists perdure_runs_told;

-- name: claim_deliveries(tag, sink, worker, now, most)
-- differs: one writer at a time needs no row locks.
update perdure_outbox set owner = :worker, epoch = epoch + 1, due_at = null
where sink = :sink and exists (select 1 from perdure_workers w where w.number = :worker and w.state = 'alive') and run in (
  select o.run from perdure_outbox o where o.sink = :sink and o.due_at <= :now order by o.due_at, o.run limit :most
)
returning :tag, 'delivery', run, sink, next, last, epoch, attempts;

-- name: due_deliveries(sinks)
-- differs: json_each.
-- When each of these sinks is to be told of something next.
select s.value, (select min(o.due_at) from perdure_outbox o where o.sink = s.value) from json_each(:sinks) s;

-- name: drop_outbox()
-- differs: temp table.
delete from perdure_outbox where run in (select number from temp.perdure_doomed);

-- name: drop_annotations()
-- differs: temp table.
delete from perdure_annotations where run in (select number from temp.perdure_doomed);

-- name: drop_usage()
-- differs: temp table.
delete from perdure_usage where run in (select number from temp.perdure_doomed);

-- name: usage_of(id, deep, topic, model, since, until)
-- differs: the tree comes first, or the whole table is read.
-- Of a run, and of its children down to the last unless `deep` is 0.
with recursive tree (number) as (
  select number from perdure_runs where id = :id
  union all
  select c.number from tree t join perdure_runs c on c.parent = t.number where :deep = 1
)
select u.model, u.provider, u.kind, count(*), sum(u.input_tokens), sum(u.output_tokens), sum(u.cached_tokens),
  sum(u.cost), sum(u.duration)
from tree t cross join perdure_usage u
where u.run = t.number and (:topic is null or u.topic = :topic or substr(u.topic, 1, length(:topic) + 1) = :topic || '.')
  and (:model is null or u.model = :model)
  and (:since is null or u.at >= :since) and (:until is null or u.at < :until)
group by u.model, u.provider, u.kind order by u.model, u.provider, u.kind;
