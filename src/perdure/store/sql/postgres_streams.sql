-- Streams: statements of Postgres. Each says why it differs from the other databases'.
-- The rows of the streams that a batch names are locked before its first statement, after those of its runs.

-- name: drop_chunks(tag, now, most)
-- differs: the streams are locked first, so that a fork that is being made is seen.
-- What is left of streams that are gone, a piece at a time.
_numbers := array(
  select number from perdure_streams where expires_at <= :now
    and not exists (select 1 from perdure_streams f where f.source = perdure_streams.number)
  order by expires_at limit 1000 for update skip locked
);
delete from perdure_chunks where (stream, nth) in (
  select c.stream, c.nth from perdure_streams s join perdure_chunks c on c.stream = s.number
  where s.number = any (_numbers) and not exists (select 1 from perdure_streams f where f.source = s.number)
  limit :most
)
returning :tag, 'dropped', nth;

-- name: drop_streams(tag, now)
-- differs: as drop_chunks.
-- When nothing is left of them. What they were forked from may be next.
_numbers := array(
  select number from perdure_streams where expires_at <= :now
    and not exists (select 1 from perdure_streams f where f.source = perdure_streams.number)
  order by expires_at limit 1000 for update skip locked
);
delete from perdure_streams
where number = any (_numbers)
  and not exists (select 1 from perdure_streams f where f.source = perdure_streams.number)
  and not exists (select 1 from perdure_chunks c where c.stream = perdure_streams.number)
returning :tag, 'gone', number;

-- name: stream_heads(streams)
-- differs: jsonb. One look for everybody who waits, however many they are.
-- A number that changes whenever a reader would see something new.
select s.number, case when s.expires_at = 0 then -1 else
  coalesce((select max(c.nth) from perdure_chunks c where c.stream = s.number), s.base) * 2
    + case when s.closed_at is null then 0 else 1 end
  end
from perdure_streams s
where s.number = any (array(select v::bigint from jsonb_array_elements_text(:streams::jsonb) v));

-- name: run_heads(runs)
-- differs: jsonb. As stream_heads.
select r.number, coalesce((select max(j.seq) from perdure_journal j where j.run = r.number), 0)
from perdure_runs r
where r.number = any (array(select v::bigint from jsonb_array_elements_text(:runs::jsonb) v));
