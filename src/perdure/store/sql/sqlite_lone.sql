-- Statements of run_durable, of SQLite.

-- name: claim_lone(tag, worker, now, ids)
-- differs: as claim.
-- The runs of run_durable that this worker has the functions of.
update perdure_runs
set owner = :worker, epoch = epoch + 1, due_at = null, started_at = coalesce(started_at, :now),
  status = case when status in ('queued', 'waiting') then 'running' else status end
where id in (select value from json_each(:ids)) and due_at is not null and slot = 0 and due_at <= :now
  and exists (select 1 from perdure_workers w where w.number = :worker and w.state = 'alive')
returning :tag, 'claimed', number, id, workflow, status, generation, epoch, parent, input, seed, started_at,
  deadline_at, forked_from, takeovers, queue,
  exists (select 1 from perdure_inbox i where i.run = perdure_runs.number and i.taken_seq is null);
