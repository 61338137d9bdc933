-- How Postgres works off queues. What both take as written is in queues.sql.
-- As in postgres.sql, they run inside a function, each with a snapshot of its own.

-- name: claim_held(tag, worker, now, most, top, workflows, queue)
-- differs: rows that another claim holds are skipped, not waited for.
-- The runs of a queue that hold a slot and go on: woken, taken over, given back. Of the queue's limits only the one
-- per worker can keep them waiting. Suspects, and workers declared dead, as for claim.
_numbers := array(select number from perdure_workers where number = :worker and state = 'alive' for share);
update perdure_runs
set owner = :worker, epoch = epoch + 1, due_at = null, started_at = coalesce(started_at, :now),
  status = case when status in ('queued', 'waiting') then 'running' else status end
where number = any (array(
  select number from perdure_runs
  where queue = :queue and slot = 2 and slot > 0 and due_at is not null and due_at <= :now
    and jsonb_exists(:workflows::jsonb, workflow)
    and :worker = any (_numbers)
    and (takeovers < 2 or number = (
      select s.number from perdure_runs s
      where s.queue = :queue and s.slot = 2 and s.slot > 0 and s.due_at is not null and s.due_at <= :now
        and s.takeovers >= 2 and jsonb_exists(:workflows::jsonb, s.workflow)
        and not exists (select 1 from perdure_runs o where o.owner = :worker and o.owner > 0 and o.takeovers >= 2)
      order by s.takeovers, s.due_at, s.number limit 1
    ))
  order by due_at, number
  limit greatest(0, least(
    :most, :top - (select count(*) from perdure_runs o where o.owner = :worker and o.owner > 0),
    coalesce((select q.per_worker from perdure_queues q where q.name = :queue)
      - (select count(*) from perdure_runs o where o.owner = :worker and o.owner > 0 and o.queue = :queue), :most)
  ))
  for no key update skip locked
))
returning :tag, 'claimed', number, id, workflow, status, generation, epoch, parent, input, seed, started_at,
  deadline_at, forked_from, takeovers, queue,
  exists (select 1 from perdure_inbox i where i.run = perdure_runs.number and i.taken_seq is null);

-- name: claim_line(tag, worker, now, most, top, workflows, queue)
-- differs: the queue's row is locked, so that one worker at a time counts what is left; the query after it sees what
-- the one before has taken. What SQLite does by a trigger is done here, once for all.
-- Gives slots to the runs at the heads of a queue's lines, as many as every limit allows: the keys take turns from
-- where the last claim ended, and each key sends its first. Only heads are read: the index is entered once per key
-- and once per run chosen, however many stand behind.
-- Most often nobody stands in line, or nobody may leave it, or all have one key and there is nothing to count by key:
-- this is told apart first, as only to begin the long query takes longer.
perform 1 from perdure_queues where name = :queue for no key update;
if (
  select 1 from perdure_runs where queue = :queue and rank is not null order by queue_key limit 1
) is null then continue; end if;
_numbers := array(select number from perdure_workers where number = :worker and state = 'alive' for share);
-- How many runs may be chosen (room), by the limits that count the queue or the worker as a whole. And how many keys
-- must be looked at to find as many that are not full (reach): a full one holds slots or has spent its rate.
select served, cursor, per_key, room, room + case
    when per_key is null and not exists (select 1 from perdure_rates r where r.queue = :queue and r.by_key = 1) then 0
    else held + (select count(*) from perdure_spent s where s.queue = :queue and s.until > :now) end as reach,
  per_key is null and not exists (select 1 from perdure_rates r where r.queue = :queue) and not exists (
    select 1 from perdure_runs l where l.queue = :queue and l.rank is not null and l.queue_key > key
  ) as plain, key
into _q
from (
  select served, cursor, per_key, held, least(
    :most, :top - (select count(*) from perdure_runs o where o.owner = :worker and o.owner > 0),
    coalesce(concurrency - held, :most),
    coalesce(per_worker - (
      select count(*) from perdure_runs o where o.owner = :worker and o.owner > 0 and o.queue = :queue
    ), :most),
    coalesce((select min(r.most - coalesce((
        select sum(s.used)::bigint from perdure_spent s
        where s.queue = :queue and s.place = r.place and s.key = '' and s.until > :now
      ), 0)) from perdure_rates r where r.queue = :queue and r.by_key = 0), :most)
  ) as room, (
    select l.queue_key from perdure_runs l
    where l.queue = :queue and l.rank is not null order by l.queue_key limit 1
  ) as key
  from perdure_queues, (
    select count(*) as held from perdure_runs
    where queue = :queue and slot = 2 and finished_at is null
  ) h
  where name = :queue and state <> 'paused' and :worker = any (_numbers)
) w;
if coalesce(_q.room, 0) <= 0 then continue; end if;
with free (number, rank) as materialized (
  select f.number, f.rank from perdure_runs f
  where _q.plain and f.queue = :queue and f.queue_key = _q.key and f.rank is not null
    and jsonb_exists(:workflows::jsonb, f.workflow)
  order by f.rank, f.number limit _q.room
  for no key update skip locked
),
chosen (number, ticket) as materialized (
  select number, _q.served + row_number() over (order by rank, number) from free
),
turned as (
  update perdure_queues set served = (select max(c.ticket) from chosen c), cursor = _q.key
  where name = :queue and exists (select 1 from chosen)
)
update perdure_runs
set owner = :worker, epoch = epoch + 1, due_at = null, started_at = coalesce(started_at, :now), status = 'running',
  slot = 2, rank = null, ticket = chosen.ticket, slot_at = :now
from chosen
where perdure_runs.number = chosen.number
returning :tag, 'claimed', perdure_runs.number, id, workflow, status, generation, epoch, parent, input, seed,
  started_at, deadline_at, forked_from, takeovers, queue,
  exists (select 1 from perdure_inbox i where i.run = perdure_runs.number and i.taken_seq is null);
if _q.plain then continue; end if;
with recursive
-- The keys that have somebody in line, from behind the last one served to the end, then those before.
later (key, n) as (
  (
    select a.queue_key, 1 from perdure_runs a
    where a.queue = :queue and a.rank is not null and a.queue_key > _q.cursor order by a.queue_key limit 1
  )
  union all
  select l.queue_key, later.n + 1 from later cross join lateral (
    select a.queue_key from perdure_runs a
    where a.queue = :queue and a.rank is not null and a.queue_key > later.key order by a.queue_key limit 1
  ) l where later.n < _q.reach
),
earlier (key, n) as (
  (
    select a.queue_key, (select count(*) from later)::int + 1 from perdure_runs a
    where a.queue = :queue and a.rank is not null and a.queue_key <= _q.cursor
      and (select count(*) from later) < _q.reach
    order by a.queue_key limit 1
  )
  union all
  select l.queue_key, earlier.n + 1 from earlier cross join lateral (
    select a.queue_key from perdure_runs a
    where a.queue = :queue and a.rank is not null and a.queue_key > earlier.key and a.queue_key <= _q.cursor
    order by a.queue_key limit 1
  ) l where earlier.n < _q.reach
),
-- What each of them may still have, and who is first. A head that is too heavy for what is left of its key's rate
-- keeps its line waiting.
lines (nth, key, room, number, rank, weight) as (
  select row_number() over (order by k.n), k.key, m.room, h.number, h.rank, h.weight
  from (select key, n from later union all select key, n from earlier) k
  cross join lateral (
    select least(
      coalesce(_q.per_key - (
        select count(*) from perdure_runs s
        where s.queue = :queue and s.queue_key = k.key and s.slot = 2 and s.finished_at is null
      ), :most),
      coalesce((select min(r.most - coalesce((
          select sum(s.used)::bigint from perdure_spent s
          where s.queue = :queue and s.place = r.place and s.key = k.key and s.until > :now
        ), 0)) from perdure_rates r where r.queue = :queue and r.by_key = 1), :most)
    ) as room
  ) m
  cross join lateral (
    select f.number, f.rank, f.weight from perdure_runs f
    where f.queue = :queue and f.queue_key = k.key and f.rank is not null
      and jsonb_exists(:workflows::jsonb, f.workflow)
    order by f.rank, f.number limit 1
  ) h
  where m.room > 0 and not exists (
    select 1 from perdure_rates r
    where r.queue = :queue and r.by_key = 1 and least(h.weight, r.most) > r.most - coalesce((
        select sum(s.used) from perdure_spent s
        where s.queue = :queue and s.place = r.place and s.key = k.key and s.until > :now
      ), 0)
  )
  order by k.n limit _q.room
),
-- One of each line, then a second of each, and so on, until there are enough.
rounds (place, total, nth, key, room, number, rank, weight) as (
  select 1, count(*) over (), nth, key, room, number, rank, weight from lines
  union all
  select p.place + 1, p.total + count(*) over (), p.nth, p.key, p.room, n.number, n.rank, n.weight
  from rounds p cross join lateral (
    select f.number, f.rank, f.weight from perdure_runs f
    where f.queue = :queue and f.queue_key = p.key and f.rank is not null and (f.rank, f.number) > (p.rank, p.number)
      and jsonb_exists(:workflows::jsonb, f.workflow)
    order by f.rank, f.number limit 1
  ) n
  where p.place < p.room and p.total < _q.room
),
picks as (
  select place, nth, key, number, weight from rounds order by place, nth limit _q.room
),
-- Those whose weights, added up, are more than a rate allows.
over_rate (number) as (
  select w.number from (
    select p.number, r.most - coalesce((
        select sum(s.used) from perdure_spent s
        where s.queue = :queue and s.place = r.place and s.key = case r.by_key when 1 then p.key else '' end
          and s.until > :now
      ), 0) as room,
      sum(least(p.weight, r.most)) over (
        partition by r.place, case r.by_key when 1 then p.key else '' end order by p.place, p.nth
      ) as wanted
    from picks p join perdure_rates r on r.queue = :queue
  ) w where wanted > room
),
-- A row that somebody else is just changing, such as cancelling, is left for the next time.
free (number) as materialized (
  select f.number from perdure_runs f
  where f.number in (select number from picks where number not in (select number from over_rate)) and f.rank is not null
  for no key update skip locked
),
chosen (number, key, weight, ticket) as materialized (
  select number, key, weight, _q.served + row_number() over (order by place, nth)
  from picks where number in (select number from free)
),
turned as (
  update perdure_queues set (served, cursor) = (select c.ticket, c.key from chosen c order by c.ticket desc limit 1)
  where name = :queue and exists (select 1 from chosen)
),
counted as (
  insert into perdure_spent (queue, place, key, at, used, until)
  select r.queue, r.place, case r.by_key when 1 then c.key else '' end, :now / r.grain * r.grain,
    sum(least(c.weight, r.most))::bigint, :now / r.grain * r.grain + r.span
  from chosen c join perdure_rates r on r.queue = :queue
  group by 1, 2, 3, 4, 6
  on conflict (queue, place, key, at) do update set used = perdure_spent.used + excluded.used
)
update perdure_runs
set owner = :worker, epoch = epoch + 1, due_at = null, started_at = coalesce(started_at, :now), status = 'running',
  slot = 2, rank = null, ticket = chosen.ticket, slot_at = :now
from chosen
where perdure_runs.number = chosen.number
returning :tag, 'claimed', perdure_runs.number, id, workflow, status, generation, epoch, parent, input, seed,
  started_at, deadline_at, forked_from, takeovers, queue,
  exists (select 1 from perdure_inbox i where i.run = perdure_runs.number and i.taken_seq is null);

-- name: drop_names()
-- differs: the doomed are an array.
-- A name that is taken until some time outlives its run, so that a repetition is still told: forget_names.
delete from perdure_names
where until is null and run_id in (select r.id from perdure_runs r where r.number = any (_doomed));
