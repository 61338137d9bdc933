"""How big each workload is, at full size and for a functional check (``--quick``)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Sizes:
    """
    Counts of runs and steps, one set per kind of session.

    Every peer gets the same sizes, so that rates and medians compare.
    """

    w1_runs: int = 500
    """W1: runs of one step, one at a time."""
    w2_runs: int = 1_000
    """W2: runs started at once."""
    w2_steps: int = 10
    """W2: steps of each run, one after the other."""
    w2s_lanes: int = 100
    """W2S: runs in progress at any moment."""
    w2s_rounds: int = 5
    """W2S: how often the W2 amount of runs is repeated, because it is over so soon."""
    w2h_finished: int = 1_000_000
    """W2H: finished runs already in the file."""
    w3_steps: int = 1_000
    """W3, W3R: steps of the one run."""
    w3_kill_at: int = 900
    """W3R: step bodies executed when the process is killed."""
    w4_runs: int = 1_000
    """W4, W4S: parked runs."""
    w4_sleep_s: float = 1.0
    """W4: how long each run sleeps."""
    w5_jobs: int = 5_000
    """W5: jobs on the queue before the workers start."""
    w5_workers: int = 2
    """W5: worker processes."""
    w5_idle: int = 40
    """W5: single jobs into the idle queue afterwards."""
    turns: int = 50
    """TURNS: turns that stream at the same time; TURNS10 has a fifth of them."""
    turn_events: int = 400
    """TURNS, TURNS10, TURNS1, TAIL: events of each, one every 25 ms."""
    scale_runs: int = 2_000
    """SCALE: runs of `w2_steps` steps for each number of worker processes."""
    sleepers: int = 100_000
    """SLEEP: sleeping runs."""
    cluster: int = 4
    """CLUSTER: idle worker processes."""
    mem_few: int = 1_000
    mem_many: int = 10_000
    """MEM: parked runs of the small and of the large case."""
    idle_runs: int = 1_000
    """IDLE: sleeping runs beside which the worker idles."""
    idle_s: float = 10.0
    """IDLE, SLEEP, CLUSTER: how long it is watched."""
    import_times: int = 10
    """IMPORT: interpreters started."""


FULL = Sizes()
QUICK = Sizes(
    w1_runs=40,
    w2_runs=30,
    w2s_rounds=2,
    w2h_finished=5_000,
    w3_steps=100,
    w3_kill_at=90,
    w4_runs=40,
    w5_jobs=100,
    w5_idle=5,
    turns=10,
    turn_events=20,
    scale_runs=40,
    sleepers=300,
    cluster=2,
    mem_few=100,
    mem_many=300,
    idle_runs=40,
    idle_s=2.0,
    import_times=3,
)
