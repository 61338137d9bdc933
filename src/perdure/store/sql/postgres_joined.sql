-- Functions for transactions that are not perdure's own. function.py puts in what stands here with an at sign: run, the
-- function of batches; join; channel, what LISTEN hears; now, the server's time; micros, an interval in microseconds;
-- groups, those of these statements; longest, the seconds of the longest duration.

-- A work inside of a caller's transaction. Nothing that belongs to runs of others is locked or changed before the
-- commit: messages are inserted, and what they lead to is left for that moment.
create or replace function @join(_work jsonb, _later jsonb, _tell boolean, _now bigint) returns json
language plpgsql volatile as $perdure$
#variable_conflict use_column
declare
  _out json;
  _mail bigint[];
begin
  _out := @run(_work);
  -- For those who do not listen: a counter that only this session writes, so nobody waits for it.
  insert into perdure_writers as w (id, batch, at) values ('session ' || pg_backend_pid(), 1, _now)
  on conflict (id) do update set batch = w.batch + 1, at = excluded.at;
  _mail := array(
    select r.part[3]::bigint
    from json_array_elements(_out) e cross join lateral (select array(select value from json_each_text(e)) as part) r
    where r.part[2] in ('sent', 'asked')
  );
  if _later is not null and cardinality(_mail) > 0 then
    insert into perdure_at_commit (function, work) values (@literal(run), _later);
  end if;
  -- Runs that are asked to make room for this one.
  insert into perdure_at_commit (function, work)
  select @literal(run), @groups(cancel) || jsonb_build_object(
    '#ids', jsonb_build_array(r.id), 'cancel', jsonb_build_array(jsonb_build_array(0, r.id, _now))
  )
  from perdure_runs r
  where r.number = any (_mail) and _work ? 'ask_named';
  if _tell then
    perform pg_notify(@literal(channel), json_build_array('', true, '[]'::json, '[]'::json, to_json(_mail))::text);
  end if;
  return _out;
end $perdure$;

-- What other languages start runs with, see docs/transactions.md.
create or replace function perdure_start(
  workflow text, input jsonb default '{}', id text default null, queue text default null, key text default '',
  priority bigint default 0, weight bigint default 1, delay interval default '0', timeout interval default null,
  tags text[] default '{}', dedupe text default null, dedupe_then text default 'existing',
  dedupe_ttl interval default null, debounce text default null, debounce_wait interval default null,
  debounce_longest interval default null, tell boolean default true
) returns text language plpgsql volatile as $perdure$
#variable_conflict use_variable
declare
  _now bigint := @now;
  _id text := coalesce(id, lpad(to_hex(_now / 1000), 12, '0') || left(replace(gen_random_uuid()::text, '-', ''), 16));
  _due bigint;
  _scope text := case
    when dedupe is not null then 'dedupe:' || coalesce(queue, '/' || split_part(workflow, '@', 1))
    when debounce is not null then 'debounce:' || workflow
  end;
  _name text := coalesce(dedupe, debounce);
  _work jsonb := @groups(enqueue, add_tag, free_name, free_open, ask_named, lose_name, take_name, debounce);
  _part text[];
  _there record;
begin
  perform perdure_check_start(
    workflow, input, _id, queue, key, priority, weight, delay, timeout, tags, dedupe, dedupe_then, dedupe_ttl,
    debounce, debounce_wait, debounce_longest
  );
  _due := _now + @micros(coalesce(debounce_wait, delay));
  if queue is not null and not exists (select 1 from perdure_queues q where q.name = queue and q.state <> 'draining')
  then
    if exists (select 1 from perdure_queues q where q.name = queue) then
      raise exception 'perdure: queue % is being drained and takes no more runs', queue using errcode = 'PD005';
    end if;
    raise exception 'perdure: there is no queue %', queue
      using errcode = 'PD004', hint = 'Declare it with app.queue(…), or make it with `perdure queue set`.';
  end if;
  _work := _work || jsonb_build_object(
    'enqueue', jsonb_build_array(jsonb_build_array(
      0, _id, workflow, _due, input::text, floor(random() * 4611686018427387904)::bigint, _now,
      _now + @micros(timeout), queue, key, priority, weight, _scope, _name
    )),
    'add_tag', (
      select coalesce(jsonb_agg(jsonb_build_array(_id, t)), '[]') from unnest(tags) t
    )
  );
  if dedupe is not null and dedupe_then = 'replace' then
    _work := _work || jsonb_build_object(
      'ask_named', jsonb_build_array(jsonb_build_array(0, _scope, _name, _id, '@replaced', _now)),
      'lose_name', jsonb_build_array(jsonb_build_array(_scope, _name, _id))
    );
  elsif dedupe is not null then
    _work := _work || jsonb_build_object('free_name', jsonb_build_array(jsonb_build_array(_scope, _name, _now)));
  elsif debounce is not null then
    _work := _work || jsonb_build_object(
      'free_open', jsonb_build_array(jsonb_build_array(_scope, _name, @unbounded, _now)),
      'debounce', jsonb_build_array(jsonb_build_array(
        0, _scope, _name, input::text, _due, coalesce(@micros(debounce_longest), @unbounded), _now
      ))
    );
  end if;
  if _scope is not null then
    _work := _work || jsonb_build_object(
      'take_name', jsonb_build_array(jsonb_build_array(_scope, _name, _id, _now + @micros(dedupe_ttl), queue))
    );
  end if;
  -- Again while the run that it was to join has begun meanwhile.
  for _try in 1 .. 50 loop
    for _part in
      select array(select value from json_each_text(e)) from json_array_elements(@join(_work, null, tell, _now)) e
    loop
      if _part[2] = 'debounced' then
        return _part[3];
      elsif _part[2] = 'started' then
        return _id;
      end if;
    end loop;
    select r.workflow, coalesce(r.first_input, r.input) as input into _there from perdure_runs r where r.id = _id;
    if found then
      _there.input := coalesce((select b.data from perdure_blobs b where '@' || b.hash = _there.input), _there.input);
      if (_there.workflow <> workflow and split_part(_there.workflow, '@', 1) <> workflow)
        or perdure_json(_there.input) is distinct from input
      then
        raise exception 'perdure: run % exists with another workflow or other input', _id using errcode = 'PD002',
          hint = 'Choose another id, or start it again exactly as it was started.';
      end if;
      return _id;
    end if;
    select n.run_id into _there from perdure_names n
    where n.scope = _scope and n.name = _name and n.run_id <> _id and dedupe is not null and dedupe_then <> 'replace';
    if found then
      if dedupe_then = 'reject' then
        raise exception 'perdure: run % has the deduplication key %', _there.run_id, dedupe using errcode = 'PD003';
      end if;
      return _there.run_id;
    end if;
  end loop;
  raise exception 'perdure: a start under % found another run under way each time', _name
    using errcode = 'PD008', hint = 'Try again.';
end $perdure$;

-- What can be checked of a start without the app's code; a worker checks the rest.
create or replace function perdure_check_start(
  workflow text, input jsonb, id text, queue text, key text, priority bigint, weight bigint, delay interval,
  timeout interval, tags text[], dedupe text, dedupe_then text, dedupe_ttl interval, debounce text, debounce_wait interval,
  debounce_longest interval
) returns void language plpgsql immutable as $perdure$
#variable_conflict use_variable
declare
  _problem text := case
    when workflow is null or workflow = '' then 'workflow is missing'
    when not perdure_is_name(split_part(workflow, '@', 1))
      or substr(workflow, strpos(workflow || '@', '@')) !~ '^(@[A-Za-z0-9][A-Za-z0-9._+-]{0,49})?$'
      then 'workflow is neither a name of 1 to 200 characters nor that, @ and a version'
    when input is null or jsonb_typeof(input) <> 'object'
      then 'input has to be an object with a value for each parameter of the workflow, by its name'
    when not perdure_is_id(id) then 'id has to have 1 to 200 characters, and no control characters'
    when key is null or (key <> '' and not perdure_is_id(key)) then 'key has to have at most 200 characters'
    when priority is null or abs(priority) > 1000000 then 'priority is not between -1000000 and 1000000'
    when weight is null or weight < 1 then 'weight has to be 1 or more'
    when queue is null and (key <> '' or priority <> 0 or weight <> 1)
      then 'key, priority and weight are terms of a queue, and there is none'
    when delay is null or not perdure_is_span(delay) then 'delay is not between 0 and 100 years'
    when not perdure_is_span(timeout) then 'timeout is not between 0 and 100 years'
    when tags is null or exists (select 1 from unnest(tags) t where t is null or not perdure_is_id(t))
      then 'each tag has to have 1 to 200 characters, and no control characters'
    when dedupe is not null and debounce is not null then 'dedupe excludes debounce'
    when not perdure_is_id(coalesce(dedupe, debounce, 'k')) then 'dedupe and debounce have 1 to 200 characters'
    when dedupe_then is null or dedupe_then not in ('existing', 'reject', 'replace')
      then 'dedupe_then is existing, reject or replace'
    when dedupe is null and (dedupe_ttl is not null or dedupe_then <> 'existing')
      then 'dedupe_then and dedupe_ttl are terms of dedupe, and there is none'
    when dedupe_ttl <= '0' or not perdure_is_span(dedupe_ttl)
      then 'dedupe_ttl has to be more than 0, and at most 100 years'
    when debounce is null and debounce_longest is not null
      then 'debounce_longest is a term of debounce, and there is none'
    when not (perdure_is_span(coalesce(debounce_wait, '0')) and perdure_is_span(coalesce(debounce_longest, '0')))
      then 'debounce_wait and debounce_longest are at most 100 years'
    when debounce_longest < debounce_wait then 'debounce_longest must not be less than debounce_wait'
    when (debounce is null) <> (debounce_wait is null) or debounce_wait <= '0'
      then 'debounce comes with debounce_wait, which is more than 0'
  end;
begin
  if _problem is not null then
    raise exception 'perdure: %', _problem using errcode = 'PD001';
  end if;
end $perdure$;

create or replace function perdure_is_id(given text) returns boolean language sql immutable as $perdure$
  select char_length(given) between 1 and 200 and given !~ '[\x01-\x1f\x7f]'
$perdure$;

create or replace function perdure_is_name(given text) returns boolean language sql immutable as $perdure$
  select perdure_is_id(given) and given !~ '/|^~|#$|#[0-9]+$|#compensate$'
$perdure$;

create or replace function perdure_is_span(given interval) returns boolean language sql immutable as $perdure$
  select extract(epoch from given) between 0 and @longest
$perdure$;

-- What other languages send signals with: whether it was accepted; not if one with this key came before.
create or replace function perdure_signal(
  run_id text, name text, data jsonb default 'null', key text default null, tell boolean default true
) returns boolean language plpgsql volatile as $perdure$
#variable_conflict use_variable
declare
  _now bigint := @now;
  _topic text := 'signal:' || name;
  _out json;
begin
  if name is null or not perdure_is_name(name) then
    raise exception 'perdure: % is no name of a signal', quote_nullable(name) using errcode = 'PD001';
  end if;
  _out := @join(
    @groups(send) || jsonb_build_object(
      'send', jsonb_build_array(jsonb_build_array(0, run_id, _topic, key, coalesce(data, 'null')::text, _now))
    ),
    @groups(wake_id) || jsonb_build_object(
      '#ids', jsonb_build_array(run_id), 'wake_id', jsonb_build_array(jsonb_build_array(run_id, _topic, _now))
    ),
    tell, _now
  );
  if json_array_length(_out) > 0 then
    return true;
  end if;
  if not exists (select 1 from perdure_runs r where r.id = run_id) then
    raise exception 'perdure: there is no run %', run_id using errcode = 'PD006';
  elsif not exists (select 1 from perdure_runs r where r.id = run_id and r.finished_at is null) then
    raise exception 'perdure: run % has ended', run_id using errcode = 'PD007';
  end if;
  return false;
end $perdure$;
