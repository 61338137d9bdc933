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
where sink = :sink and run in (
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
