-- Streams: statements that every database takes as written; see docs/streams.md and docs/adr/0027-streams.md.
-- A stream whose `expires_at` has passed is gone, whatever its row still says.

-- name: delete_stream(tag, stream, now)
-- A deletion is an end at a time before all others.
update perdure_streams set expires_at = 0, ttl = null
where number = :stream and (expires_at is null or expires_at > :now)
returning :tag, 'deleted', number;

-- name: free_stream(stream, now)
-- The name of a stream that is gone may be used again, unless forks still show what it was.
update perdure_streams set name = null
where number = :stream and expires_at <= :now
  and not exists (select 1 from perdure_streams f where f.source = perdure_streams.number);

-- name: create_stream(tag, name, made, type, now, ttl, expires_at, closed_at, source, base, within)
-- No row back: the name is taken, or what it is forked from is gone.
insert into perdure_streams (
  name, made, type, created_at, ttl, expires_at, closed_at, source, base, within
)
select :name, :made, :type, :now, :ttl, :expires_at, :closed_at, :source, :base, :within
where :source is null or exists (
  select 1 from perdure_streams s where s.number = :source and (s.expires_at is null or s.expires_at > :now)
)
on conflict (name) do nothing
returning :tag, 'created', number;

-- name: first_chunk(name, made, nth, now, data, size, total, closes)
-- Of a stream that this commit has made; `nth` counts from where its own chunks begin.
insert into perdure_chunks (stream, nth, at, size, total, closes, data)
select number, base + :nth, :now, :size, :total, :closes, :data
from perdure_streams where name = :name and made = :made;

-- name: append_chunk(tag, stream, now, data, size, most, writer_seq, producer, epoch, seq, closes)
-- No row back: the stream is gone, closed or full, the writer's sequence does not rise, or the producer's does not
-- go on; whoever asks finds out which.
insert into perdure_chunks (stream, nth, at, size, total, closes, writer_seq, producer, epoch, seq, data)
select s.number, coalesce(l.nth, s.base) + 1, :now, :size, coalesce(l.total, 0) + :size, :closes,
  coalesce(:writer_seq, l.writer_seq), :producer, :epoch, :seq, :data
from perdure_streams s
left join perdure_chunks l on l.stream = s.number
  and l.nth = (select max(m.nth) from perdure_chunks m where m.stream = s.number)
where s.number = :stream and s.closed_at is null and (s.expires_at is null or s.expires_at > :now)
  and coalesce(l.closes, 0) = 0 and coalesce(l.total, 0) + :size <= :most
  and (:writer_seq is null or l.writer_seq is null or l.writer_seq < :writer_seq)
  and (:producer is null or :seq = case
    when :epoch = (select max(p.epoch) from perdure_chunks p where p.stream = s.number and p.producer = :producer)
      then (select max(p.seq) + 1 from perdure_chunks p
        where p.stream = s.number and p.producer = :producer and p.epoch = :epoch)
    when exists (select 1 from perdure_chunks p
        where p.stream = s.number and p.producer = :producer and p.epoch > :epoch) then -1
    else 0 end)
returning :tag, 'appended', nth;

-- name: close_stream(tag, stream, now, producer, epoch, seq)
-- Without a last chunk. No row back: as for append_chunk.
update perdure_streams
set closed_at = :now, closer = :producer, closer_epoch = :epoch, closer_seq = :seq
where number = :stream and closed_at is null and (expires_at is null or expires_at > :now)
  and coalesce((
    select c.closes from perdure_chunks c where c.stream = perdure_streams.number order by c.nth desc limit 1
  ), 0) = 0
  and (:producer is null or :seq = case
    when :epoch = (select max(p.epoch) from perdure_chunks p
        where p.stream = perdure_streams.number and p.producer = :producer)
      then (select max(p.seq) + 1 from perdure_chunks p
        where p.stream = perdure_streams.number and p.producer = :producer and p.epoch = :epoch)
    when exists (select 1 from perdure_chunks p
        where p.stream = perdure_streams.number and p.producer = :producer and p.epoch > :epoch) then -1
    else 0 end)
returning :tag, 'closed', coalesce(
  (select max(m.nth) from perdure_chunks m where m.stream = perdure_streams.number), base
);

-- name: touch_stream(stream, now, expires_at)
-- It was read or written, so it lives on.
update perdure_streams set expires_at = :expires_at
where number = :stream and ttl is not null and expires_at > :now and expires_at < :expires_at;

-- ------------------------------------------------------------------------------------------ reading

-- name: stream_by_name(name)
-- With its last chunk, and whether anything was forked from it.
select s.number, s.name, s.type, s.ttl, s.expires_at, s.source, s.base, s.within, s.closed_at, s.closer,
  s.closer_epoch, s.closer_seq, coalesce(l.nth, s.base), coalesce(l.closes, 0), l.writer_seq, coalesce(l.total, 0),
  l.producer, l.epoch, l.seq, case when exists (select 1 from perdure_streams f where f.source = s.number) then 1
  else 0 end
from perdure_streams s
left join perdure_chunks l on l.stream = s.number
  and l.nth = (select max(m.nth) from perdure_chunks m where m.stream = s.number)
where s.name = :name;

-- name: stream_by_number(number)
select s.number, s.name, s.type, s.ttl, s.expires_at, s.source, s.base, s.within, s.closed_at, s.closer,
  s.closer_epoch, s.closer_seq, coalesce(l.nth, s.base), coalesce(l.closes, 0), l.writer_seq, coalesce(l.total, 0),
  l.producer, l.epoch, l.seq, case when exists (select 1 from perdure_streams f where f.source = s.number) then 1
  else 0 end
from perdure_streams s
left join perdure_chunks l on l.stream = s.number
  and l.nth = (select max(m.nth) from perdure_chunks m where m.stream = s.number)
where s.number = :number;

-- name: lineage(stream)
-- A stream and what it was forked from, and that from, each with where its own chunks begin.
select number, base from (
  with recursive line (number, source, base, depth) as (
    select number, source, base, 0 from perdure_streams where number = :stream
    union all
    select p.number, p.source, p.base, l.depth + 1 from line l join perdure_streams p on p.number = l.source
  )
  select number, base, depth from line
) found order by depth;

-- name: chunks(stream, after, last, most, bytes)
-- Some of a stream's own chunks: as many as `bytes` begin in, at least one.
select c.nth, c.data from (
  select n.nth, sum(n.size) over (order by n.nth) - n.size as before from (
    select nth, size from perdure_chunks
    where stream = :stream and nth > :after and nth <= :last order by nth limit :most
  ) n
) p join perdure_chunks c on c.stream = :stream and c.nth = p.nth
where p.before < :bytes
order by c.nth;

-- name: producer_state(stream, producer)
-- Its newest epoch and the last number in it.
select epoch, seq from perdure_chunks
where stream = :stream and producer = :producer order by epoch desc, seq desc limit 1;
