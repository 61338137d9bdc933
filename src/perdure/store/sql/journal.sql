-- Reading journals: by who replays them, by who follows them, by a step that goes on where another one stopped.

-- name: history(run)
-- What is replayed, and the last entry in any case: the journal goes on behind it. What steps have emitted is for
-- readers, and may be much.
select seq, kind, key, at, data, started_at, attempt, fingerprint
from perdure_journal
where run = :run
  and (kind <> 'step_emitted' or seq = (select max(m.seq) from perdure_journal m where m.run = :run))
order by seq;

-- name: entries(run, after, most)
select seq, kind, key, at, data, started_at, attempt, fingerprint
from perdure_journal where run = :run and seq > :after order by seq limit :most;

-- name: emitted(run, key, after, most)
-- What the bodies of a step have emitted, and where the run was run again.
select seq, kind, key, at, data, started_at, attempt, fingerprint
from perdure_journal
where run = :run and seq > :after and ((kind = 'step_emitted' and key = :key) or kind = 'rerun')
order by seq limit :most;
