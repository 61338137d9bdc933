-- Remarks about runs, and what their steps have used, where every database takes them as written.

-- name: annotate(run, epoch, key, value, payload, actor, actor_kind, actor_version, scope, scope_id, generation, attempt, dedupe, now)
-- By the run itself: with its next commit. A repetition under a dedupe key is left out.
insert into perdure_annotations (
  run, key, value, payload, actor, actor_kind, actor_version, scope, scope_id, generation, attempt, dedupe, at
)
select number, :key, :value, :payload, :actor, :actor_kind, :actor_version, :scope, :scope_id, :generation, :attempt,
  :dedupe, :now
from perdure_runs where number = :run and epoch = :epoch and owner is not null
on conflict (run, key, dedupe) do nothing;

-- name: attach(tag, id, key, value, payload, actor, actor_kind, actor_version, scope, scope_id, dedupe, now)
-- By others. No row back: no such run, or a repetition.
insert into perdure_annotations (
  run, key, value, payload, actor, actor_kind, actor_version, scope, scope_id, generation, dedupe, at
)
select number, :key, :value, :payload, :actor, :actor_kind, :actor_version, :scope, :scope_id, generation, :dedupe, :now
from perdure_runs where id = :id
on conflict (run, key, dedupe) do nothing
returning :tag, 'attached', run;

-- name: attach_first(id, seed, key, value, payload, actor, actor_kind, actor_version, scope, scope_id, dedupe, now)
-- With a start: only where this very start has inserted the run, as its seed tells.
insert into perdure_annotations (
  run, key, value, payload, actor, actor_kind, actor_version, scope, scope_id, generation, dedupe, at
)
select number, :key, :value, :payload, :actor, :actor_kind, :actor_version, :scope, :scope_id, generation, :dedupe, :now
from perdure_runs where id = :id and seed = :seed
on conflict (run, key, dedupe) do nothing;

-- name: annotate_child(run, epoch, id, key, value, payload, actor, actor_kind, actor_version, scope, scope_id, dedupe, now)
-- By its parent, with its start. (+ 0: by its id, and not among all children.)
insert into perdure_annotations (
  run, key, value, payload, actor, actor_kind, actor_version, scope, scope_id, generation, dedupe, at
)
select c.number, :key, :value, :payload, :actor, :actor_kind, :actor_version, :scope, :scope_id, c.generation, :dedupe,
  :now
from perdure_runs p
join perdure_runs c on c.id = :id and c.parent + 0 = p.number and c.epoch = 0 and c.started_at is null
where p.number = :run and p.epoch = :epoch and p.owner is not null
on conflict (run, key, dedupe) do nothing;

-- name: add_usage(run, epoch, step, generation, attempt, topic, kind, model, provider, input_tokens, output_tokens, cached_tokens, cost, duration, dedupe, now)
-- A repetition under a dedupe key is left out.
insert into perdure_usage (
  run, step, generation, attempt, topic, kind, model, provider, input_tokens, output_tokens, cached_tokens, cost,
  duration, dedupe, at
)
select number, :step, :generation, :attempt, :topic, :kind, :model, :provider, :input_tokens, :output_tokens,
  :cached_tokens, :cost, :duration, :dedupe, :now
from perdure_runs where number = :run and epoch = :epoch and owner is not null
on conflict (run, dedupe) do nothing;

-- name: annotations_of(id, key, prefix, scope, scope_id, actor, actor_kind, attempt, since, until, most)
select r.id, a.key, a.value, a.payload, a.actor, a.actor_kind, a.actor_version, a.scope, a.scope_id, a.generation,
  a.attempt, a.at
from perdure_annotations a join perdure_runs r on r.number = a.run
where a.run = (select f.number from perdure_runs f where f.id = :id)
  and (:key is null or a.key = :key) and (:prefix is null or substr(a.key, 1, length(:prefix)) = :prefix)
  and (:scope is null or a.scope = :scope) and (:scope_id is null or a.scope_id = :scope_id)
  and (:actor is null or a.actor = :actor) and (:actor_kind is null or a.actor_kind = :actor_kind)
  and (:attempt is null or a.attempt = :attempt)
  and (:since is null or a.at >= :since) and (:until is null or a.at < :until)
order by a.number limit :most;

-- name: annotations_by_key(key, scope, scope_id, actor, actor_kind, attempt, since, until, most)
select r.id, a.key, a.value, a.payload, a.actor, a.actor_kind, a.actor_version, a.scope, a.scope_id, a.generation,
  a.attempt, a.at
from perdure_annotations a join perdure_runs r on r.number = a.run
where a.key = :key
  and (:scope is null or a.scope = :scope) and (:scope_id is null or a.scope_id = :scope_id)
  and (:actor is null or a.actor = :actor) and (:actor_kind is null or a.actor_kind = :actor_kind)
  and (:attempt is null or a.attempt = :attempt)
  and (:since is null or a.at >= :since) and (:until is null or a.at < :until)
order by a.number limit :most;

-- name: annotations_by_actor(actor, prefix, scope, scope_id, actor_kind, attempt, since, until, most)
select r.id, a.key, a.value, a.payload, a.actor, a.actor_kind, a.actor_version, a.scope, a.scope_id, a.generation,
  a.attempt, a.at
from perdure_annotations a join perdure_runs r on r.number = a.run
where a.actor = :actor
  and (:prefix is null or substr(a.key, 1, length(:prefix)) = :prefix)
  and (:scope is null or a.scope = :scope) and (:scope_id is null or a.scope_id = :scope_id)
  and (:actor_kind is null or a.actor_kind = :actor_kind) and (:attempt is null or a.attempt = :attempt)
  and (:since is null or a.at >= :since) and (:until is null or a.at < :until)
order by a.number limit :most;

-- name: usage_by_topic(topic, beyond, model, since, until)
-- Of all runs: the topic itself, and all that begins with it and a dot. `beyond` is the topic and what follows a dot.
select u.model, u.provider, u.kind, count(*), sum(u.input_tokens), sum(u.output_tokens), sum(u.cached_tokens),
  sum(u.cost), sum(u.duration)
from perdure_usage u
where u.topic >= :topic and u.topic < :beyond
  and (u.topic = :topic or substr(u.topic, 1, length(:topic) + 1) = :topic || '.')
  and (:model is null or u.model = :model)
  and (:since is null or u.at >= :since) and (:until is null or u.at < :until)
group by u.model, u.provider, u.kind order by u.model, u.provider, u.kind;

-- name: usage_between(since, until, model)
select u.model, u.provider, u.kind, count(*), sum(u.input_tokens), sum(u.output_tokens), sum(u.cached_tokens),
  sum(u.cost), sum(u.duration)
from perdure_usage u
where u.at >= :since and u.at < :until and (:model is null or u.model = :model)
group by u.model, u.provider, u.kind order by u.model, u.provider, u.kind;
