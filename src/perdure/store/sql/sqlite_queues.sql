-- How SQLite works off queues. What both take as written is in queues.sql.

-- name: claim_held(tag, worker, now, most, top, workflows, queue)
-- differs: one writer at a time needs no row locks.
-- The runs of a queue that hold a slot and go on: woken, taken over, given back. Of the queue's limits only the one
-- per worker can keep them waiting. Suspects as for claim.
update perdure_runs
set owner = :worker, epoch = epoch + 1, due_at = null, started_at = coalesce(started_at, :now),
  status = case when status in ('queued', 'waiting') then 'running' else status end
where number in (
  select number from perdure_runs
  where queue = :queue and slot = 2 and slot > 0 and due_at <= :now
    and exists (select 1 from perdure_workers w where w.number = :worker and w.state = 'alive')
    and +workflow in (select value from json_each(:workflows))
    and (takeovers < 2 or number = (
      select s.number from perdure_runs s
      where s.queue = :queue and s.slot = 2 and s.slot > 0 and s.due_at <= :now and s.takeovers >= 2
        and +s.workflow in (select value from json_each(:workflows))
        and not exists (select 1 from perdure_runs o where o.owner = :worker and o.takeovers >= 2)
      order by s.takeovers, s.due_at, s.number limit 1
    ))
  order by due_at, number
  limit max(0, min(
    :most, :top - (select count(*) from perdure_runs o where o.owner = :worker),
    coalesce((select q.per_worker from perdure_queues q where q.name = :queue)
      - (select count(*) from perdure_runs o where o.owner = :worker and o.queue = :queue), :most)
  ))
)
returning :tag, 'claimed', number, id, workflow, status, generation, epoch, parent, input, seed, started_at,
  deadline_at, forked_from, takeovers, queue,
  exists (select 1 from perdure_inbox i where i.run = perdure_runs.number and i.taken_seq is null);

-- name: claim_line(tag, worker, now, most, top, workflows, queue)
-- differs: one writer at a time needs no locks; a recursive query walks where others have `lateral`.
-- Gives slots to the runs at the heads of a queue's lines, as many as every limit allows: the keys take turns from
-- where the last claim ended, and each key sends its first. Only heads are read: the index is entered once per key
-- and once per run chosen, however many stand behind.
with recursive
-- How many runs may be chosen, by the limits that count the queue or the worker as a whole. And how many keys must be
-- looked at to find as many that are not full: a full one holds slots or has spent its rate.
q (served, cursor, per_key, room, reach) as materialized (
  select served, cursor, per_key, room, room + case
    when per_key is null and not exists (select 1 from perdure_rates r where r.queue = :queue and r.by_key = 1) then 0
    else held + (select count(*) from perdure_spent s where s.queue = :queue and s.until > :now) end
  from (
    select served, cursor, per_key, held, min(
      :most, :top - (select count(*) from perdure_runs o where o.owner = :worker),
      coalesce(concurrency - held, :most),
      coalesce(per_worker - (select count(*) from perdure_runs o where o.owner = :worker and o.queue = :queue), :most),
      coalesce((select min(r.most - coalesce((
          select sum(s.used) from perdure_spent s
          where s.queue = :queue and s.place = r.place and s.key = '' and s.until > :now
        ), 0)) from perdure_rates r where r.queue = :queue and r.by_key = 0), :most)
    ) as room
    from perdure_queues, (
      select count(*) as held from perdure_runs
      where queue = :queue and queue_key >= '' and slot = 2 and finished_at is null
    )
    where name = :queue and state <> 'paused' and exists (select 1 from perdure_workers w where w.number = :worker and w.state = 'alive')
  )
  where room > 0
),
-- The keys that have somebody in line, from behind the last one served to the end, then those before.
later (key) as materialized (
  select (
    select l.queue_key from perdure_runs l
    where l.queue = :queue and l.rank is not null and l.queue_key > q.cursor order by l.queue_key limit 1
  ) from q
  union all
  select (
    select l.queue_key from perdure_runs l
    where l.queue = :queue and l.rank is not null and l.queue_key > later.key order by l.queue_key limit 1
  ) from later where key is not null
  limit coalesce((select reach from q), 0)
),
earlier (key) as materialized (
  select (
    select l.queue_key from perdure_runs l
    where l.queue = :queue and l.rank is not null and l.queue_key <= q.cursor order by l.queue_key limit 1
  ) from q
  union all
  select (
    select l.queue_key from perdure_runs l
    where l.queue = :queue and l.rank is not null and l.queue_key > earlier.key
      and l.queue_key <= (select cursor from q)
    order by l.queue_key limit 1
  ) from earlier where key is not null
  limit max(0, coalesce((select reach from q), 0) - (select count(key) from later))
),
-- What each of them may still have, and who is first.
rooms (key, head, room) as materialized (
  select k.key, (
    select h.number from perdure_runs h
    where h.queue = :queue and h.queue_key = k.key and h.rank is not null
      and +h.workflow in (select value from json_each(:workflows))
    order by h.rank, h.number limit 1
  ), min(
    coalesce((select per_key from q) - (
      select count(*) from perdure_runs s
      where s.queue = :queue and s.queue_key = k.key and s.slot = 2 and s.finished_at is null
    ), :most),
    coalesce((select min(r.most - coalesce((
        select sum(s.used) from perdure_spent s
        where s.queue = :queue and s.place = r.place and s.key = k.key and s.until > :now
      ), 0)) from perdure_rates r where r.queue = :queue and r.by_key = 1), :most)
  )
  from (
    select key from later where key is not null union all select key from earlier where key is not null
  ) k
),
-- A head that is too heavy for what is left of its key's rate keeps its line waiting.
lines (nth, key, head, room) as materialized (
  select row_number() over (), key, head, room from (
    select key, head, room from rooms
    where room > 0 and head is not null and not exists (
      select 1 from perdure_rates r join perdure_runs h on h.number = rooms.head
      where r.queue = :queue and r.by_key = 1 and min(h.weight, r.most) > r.most - coalesce((
          select sum(s.used) from perdure_spent s
          where s.queue = :queue and s.place = r.place and s.key = rooms.key and s.until > :now
        ), 0)
    )
    limit coalesce((select room from q), 0)
  )
),
-- One of each line, then a second of each, and so on: a recursive query takes its rows first in, first out.
picks (place, nth, key, room, number, rank, weight) as materialized (
  select 1, nth, key, room, r.number, r.rank, r.weight from lines join perdure_runs r on r.number = head
  union all
  select p.place + 1, p.nth, p.key, p.room, r.number, r.rank, r.weight
  from picks p join perdure_runs r on r.number = coalesce((
    select n.number from perdure_runs n
    where n.queue = :queue and n.queue_key = p.key and n.rank = p.rank and n.number > p.number
      and +n.workflow in (select value from json_each(:workflows))
    order by n.number limit 1
  ), (
    select n.number from perdure_runs n
    where n.queue = :queue and n.queue_key = p.key and n.rank > p.rank
      and +n.workflow in (select value from json_each(:workflows))
    order by n.rank, n.number limit 1
  ))
  where p.place < p.room
  limit coalesce((select room from q), 0)
),
-- Those whose weights, added up, are more than a rate allows.
over (number) as (
  select number from (
    select p.number, r.most - coalesce((
        select sum(s.used) from perdure_spent s
        where s.queue = :queue and s.place = r.place and s.key = iif(r.by_key = 1, p.key, '') and s.until > :now
      ), 0) as room,
      sum(min(p.weight, r.most)) over (
        partition by r.place, iif(r.by_key = 1, p.key, '') order by p.place, p.nth
      ) as wanted
    from picks p join perdure_rates r on r.queue = :queue
  ) where wanted > room
)
update perdure_runs
set owner = :worker, epoch = epoch + 1, due_at = null, started_at = coalesce(started_at, :now), status = 'running',
  slot = 2, rank = null, ticket = chosen.ticket, slot_at = :now
from (
  select number, (select served from q) + row_number() over (order by place, nth) as ticket
  from picks where number not in (select number from over)
) chosen
where perdure_runs.number = chosen.number
returning :tag, 'claimed', number, id, workflow, status, generation, epoch, parent, input, seed, started_at,
  deadline_at, forked_from, takeovers, queue,
  exists (select 1 from perdure_inbox i where i.run = perdure_runs.number and i.taken_seq is null);

-- name: drop_names()
-- differs: temp table.
-- A name that is taken until some time outlives its run, so that a repetition is still told: forget_names.
delete from perdure_names
where until is null and run_id in (
  select r.id from perdure_runs r where r.number in (select number from temp.perdure_doomed)
);
