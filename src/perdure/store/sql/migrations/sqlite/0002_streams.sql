-- Streams that users write. They only grow until they are closed; a run's journal is read as one without any row here.
create table perdure_streams (
  number integer primary key autoincrement,
  -- Null once it is gone and its chunks wait for their removal.
  name text unique,
  -- Of the request that made it, so that its first chunks are told from those of a request that came second.
  made text not null,
  type text not null,
  created_at integer not null,
  -- Seconds that it lives after it was read or written last; until when it does. Past that it is gone.
  ttl integer,
  expires_at integer,
  -- A fork's source. What the source had up to its chunk `base` is the fork's as well, and of the next one a part.
  source integer,
  base integer not null default 0,
  within integer not null default 0,
  -- If it was closed without a last chunk, and by which producer.
  closed_at integer,
  closer text,
  closer_epoch integer,
  closer_seq integer
) strict;
-- free_stream, stream_by_name, drop_chunks: whether there are forks
create index perdure_streams_source on perdure_streams (source) where source is not null;
-- drop_chunks, drop_streams: the streams that are gone
create index perdure_streams_expires on perdure_streams (expires_at) where expires_at is not null;
-- One append each. What decides about the next append is read off the last one.
create table perdure_chunks (
  stream integer not null,
  nth integer not null,
  at integer not null,
  size integer not null,
  -- Of the stream's own chunks up to here.
  total integer not null,
  -- Whether it is the stream's last.
  closes integer not null default 0,
  -- The highest Stream-Seq so far.
  writer_seq text,
  producer text,
  epoch integer,
  seq integer,
  -- Payloads: JSON messages between commas; or bytes as a JSON string, in base64 within an array if they are no text.
  data text not null,
  primary key (stream, nth)
) strict;
-- append_chunk, close_stream, producer_state: how far a producer has come; and it appends nothing twice
create unique index perdure_chunks_producer on perdure_chunks (stream, producer, epoch, seq) where producer is not null;
