-- Statements of run_durable, of Postgres.

-- name: claim_lone(tag, worker, now, ids)
-- differs: as claim.
-- The runs of run_durable that this worker has the functions of. (+ 0: by their ids, and not among all that are due.)
_numbers := array(select number from perdure_workers where number = :worker and state = 'alive' for share);
update perdure_runs
set owner = :worker, epoch = epoch + 1, due_at = null, started_at = coalesce(started_at, :now),
  status = case when status in ('queued', 'waiting') then 'running' else status end
where number = any (array(
  select number from perdure_runs
  where id = any (array(select jsonb_array_elements_text(:ids::jsonb)))
    and due_at is not null and slot + 0 = 0 and due_at <= :now
    and :worker = any (_numbers)
  order by number
  for no key update skip locked
))
returning :tag, 'claimed', number, id, workflow, status, generation, epoch, parent, input, seed, started_at,
  deadline_at, forked_from, takeovers, queue,
  exists (select 1 from perdure_inbox i where i.run = perdure_runs.number and i.taken_seq is null);
