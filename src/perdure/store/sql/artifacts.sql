-- What runs keep beside their journals, under names.

-- name: save_artifact(tag, run, epoch, name, step, form, media_type, size, data, now)
-- The last one under a name counts. No row back: the run is another worker's by now.
insert into perdure_artifacts (run, name, step, form, media_type, size, data, saved_at)
select number, :name, :step, :form, :media_type, :size, :data, :now from perdure_runs
where number = :run and epoch = :epoch and owner is not null
on conflict (run, name) do update set step = excluded.step, form = excluded.form, media_type = excluded.media_type,
  size = excluded.size, data = excluded.data, saved_at = excluded.saved_at
returning :tag, 'saved';

-- name: remove_artifact(run, epoch, name)
delete from perdure_artifacts where run = :run and name = :name
  and exists (select 1 from perdure_runs where number = :run and epoch = :epoch and owner is not null);

-- name: copy_artifacts(id, number)
-- A fork's, of the run that it was forked from.
insert into perdure_artifacts (run, name, step, form, media_type, size, data, saved_at)
select r.number, a.name, a.step, a.form, a.media_type, a.size, a.data, a.saved_at
from perdure_artifacts a join perdure_runs r on r.id = :id
where a.run = :number
on conflict (run, name) do nothing;

-- name: artifacts(run)
select name, step, media_type, size, saved_at from perdure_artifacts where run = :run order by name;

-- name: artifact(run, name)
select form, data from perdure_artifacts where run = :run and name = :name;
