"""Who is measured on what, and the floors that perdure must reach."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """One column of the report: a variant of a peer, on a kind of database."""

    key: str
    store: str
    peer: str
    variant: str
    title: str
    workloads: frozenset[str]


@dataclass(frozen=True)
class Ratio:
    """
    perdure's median over a rival's, both from one session, must be at least ``floor``.

    A ratio without ``judged`` is shown for information and never fails a session.
    """

    workload: str
    figure: str
    rival: str
    floor: float
    judged: bool = True
    rival_workload: str = ""
    ours: str = "perdure"


@dataclass(frozen=True)
class Limit:
    """A figure of perdure's must be at most this; ``worst`` judges the worst repeat, not the median."""

    workload: str
    figure: str
    most: float
    worst: bool = False
    ours: str = "perdure"


_CEILING = frozenset({"W1", "W2", "W2S", "W3"})
_DBOS = frozenset({"W1", "W2", "W3", "W3R", "W4", "W4S", "IMPORT", "IDLE"})
_PERDURE = _CEILING | _DBOS | {"W1P", "W2F", "W2H", "MEM", "TURNS", "TURNS10", "TURNS1", "TAIL"}
_QUEUES = frozenset({"W5"})
_ABSURD = frozenset({"W1", "W2", "W3", "W4", "W4S", "W5"})
_PERDURE_PG = (_PERDURE | {"W5", "SLEEP", "CLUSTER", "SCALE"}) - {"IMPORT", "MEM"}

CONTESTANTS = (
    Contestant("perdure", "sqlite", "perdure", "", "perdure", _PERDURE),
    Contestant("ceiling-inline", "sqlite", "ceiling", "inline", "ceiling, inline", _CEILING),
    Contestant("ceiling-thread", "sqlite", "ceiling", "thread", "ceiling, thread", _CEILING),
    Contestant("dbos", "sqlite", "dbos", "plain", "DBOS, SQLite", _DBOS),
    Contestant("dbos-wal", "sqlite", "dbos", "wal", "DBOS, SQLite WAL", _DBOS - {"IMPORT"}),
    Contestant("perdure-pg", "postgres", "perdure", "", "perdure", _PERDURE_PG),
    Contestant("ceiling-pg", "postgres", "ceiling", "batch", "ceiling, batches", _CEILING),
    Contestant("ceiling-pg-each", "postgres", "ceiling", "each", "ceiling, row by row", _CEILING),
    Contestant("dbos-pg", "postgres", "dbos", "plain", "DBOS", _DBOS - {"IMPORT"} | _QUEUES),
    Contestant("dbos-pg-fast", "postgres", "dbos", "fast", "DBOS, queue polled every 50 ms", _QUEUES),
    Contestant("absurd-pg", "postgres", "absurd", "", "absurd", _ABSURD),
)

GROUPS = (
    ("W1", "W1P"),
    ("W3",),
    ("W2S", "W2H", "W2F", "W2"),
    ("W3R",),
    ("W4",),
    ("W4S",),
    ("W5",),
    ("TURNS", "TURNS10", "TURNS1"),
    ("TAIL",),
    ("SCALE",),
    ("MEM",),
    ("IMPORT",),
    ("IDLE",),
    ("CLUSTER",),
    ("SLEEP",),
)
"""Workloads in the order of a session; those compared with each other take turns, repeat by repeat."""

WORKLOADS = {
    "W1": "one run of one step, one at a time",
    "W1P": "W1 as a pipeline of one stage",
    "W2": "runs of 10 steps, all started at once",
    "W2S": "the same, 100 in progress at a time",
    "W2F": "W2 as a flow of 10 nodes",
    "W2H": "W2 with 1,000,000 finished runs in the database",
    "W3": "one run of 1,000 sequential steps",
    "W3R": "W3 killed at step 900 and started again",
    "W4": "1,000 runs that sleep one second",
    "W4S": "1,000 runs that wait for a signal each",
    "W5": "5,000 one-step jobs on a durable queue, two worker processes; then single jobs into the idle queue",
    "TURNS": "50 turns that stream 40 events a second each, every one of them read from the journal",
    "TURNS10": "10 such turns",
    "TURNS1": "one such turn",
    "TAIL": "a stream that one process writes, 40 events a second, and another one reads",
    "SCALE": "runs of 10 steps on a queue, for one, two and four worker processes",
    "MEM": "memory of one parked run",
    "IMPORT": "import of the package",
    "IDLE": "a worker beside 1,000 sleeping runs",
    "CLUSTER": "four worker processes with nothing to do",
    "SLEEP": "a worker beside 100,000 sleeping runs",
}

RATIOS = (
    Ratio("W1", "runs_per_s", "ceiling-inline", 0.6),
    Ratio("W1", "runs_per_s", "ceiling-thread", 0.6),
    Ratio("W1", "runs_per_s", "dbos", 4.5),
    Ratio("W1", "runs_per_s", "dbos-wal", 4.5, judged=False),
    Ratio("W2", "steps_per_s", "ceiling-inline", 0.2, rival_workload="W2S"),
    Ratio("W2", "steps_per_s", "ceiling-thread", 0.2, rival_workload="W2S"),
    Ratio("W2", "steps_per_s", "ceiling-inline", 0.2, judged=False),
    Ratio("W2", "steps_per_s", "ceiling-thread", 0.2, judged=False),
    Ratio("W2", "steps_per_s", "dbos", 50),
    Ratio("W2", "steps_per_s", "dbos-wal", 50, judged=False),
    Ratio("W1P", "runs_per_s", "perdure", 0.9, rival_workload="W1"),
    Ratio("W2F", "steps_per_s", "perdure", 0.9, rival_workload="W2"),
    Ratio("W2H", "steps_per_s", "perdure", 0.85, rival_workload="W2"),
    Ratio("W3", "steps_per_s", "ceiling-inline", 0.7),
    Ratio("W3", "steps_per_s", "ceiling-thread", 0.7),
    Ratio("W3", "steps_per_s", "dbos", 6),
    Ratio("W3", "steps_per_s", "dbos-wal", 6, judged=False),
    Ratio("W1", "runs_per_s", "ceiling-pg", 0.5, ours="perdure-pg"),
    Ratio("W1", "runs_per_s", "dbos-pg", 3, ours="perdure-pg"),
    Ratio("W2", "steps_per_s", "ceiling-pg", 0.15, rival_workload="W2S", ours="perdure-pg"),
    Ratio("W2", "steps_per_s", "ceiling-pg", 0.15, judged=False, ours="perdure-pg"),
    Ratio("W2", "steps_per_s", "dbos-pg", 30, ours="perdure-pg"),
    Ratio("W2", "steps_per_s", "absurd-pg", 8, ours="perdure-pg"),
    Ratio("W2H", "steps_per_s", "perdure-pg", 0.85, rival_workload="W2", ours="perdure-pg"),
    Ratio("W3", "steps_per_s", "ceiling-pg", 0.6, ours="perdure-pg"),
    Ratio("W3", "steps_per_s", "dbos-pg", 4, ours="perdure-pg"),
    Ratio("W5", "jobs_per_s", "dbos-pg", 20, ours="perdure-pg"),
    Ratio("W5", "jobs_per_s", "dbos-pg-fast", 20, judged=False, ours="perdure-pg"),
    Ratio("W5", "jobs_per_s", "absurd-pg", 1, judged=False, ours="perdure-pg"),
)
"""W2's 6,000 steps/s and W5's 3,000 jobs/s of the plan are 30 and 20 times DBOS on the machine that it measured on."""

LIMITS = (
    Limit("W3R", "recover_s", 0.6),
    Limit("W3R", "steps_repeated", 1, worst=True),
    Limit("W3R", "steps_lost", 0, worst=True),
    Limit("W4", "after_wake_s", 0.7),
    Limit("W4S", "after_wake_s", 0.7),
    Limit("TURNS", "p50_ms", 5),
    Limit("TURNS10", "p50_ms", 5),
    Limit("TURNS1", "p50_ms", 5),
    Limit("TURNS", "fsyncs_per_step", 0.05),
    Limit("TAIL", "p50_ms", 10),
    Limit("TAIL", "p50_ms", 10, ours="perdure-pg"),
    Limit("MEM", "held_few_kib", 10),
    Limit("MEM", "held_many_kib", 10),
    Limit("MEM", "evicted_few_kib", 1),
    Limit("MEM", "evicted_many_kib", 1),
    Limit("IMPORT", "import_ms", 150),
    Limit("W3R", "steps_repeated", 1, worst=True, ours="perdure-pg"),
    Limit("W3R", "steps_lost", 0, worst=True, ours="perdure-pg"),
    Limit("W4", "after_wake_s", 0.7, ours="perdure-pg"),
    Limit("W4S", "after_wake_s", 0.7, ours="perdure-pg"),
    Limit("W5", "pickup_p50_ms", 10, ours="perdure-pg"),
    Limit("W5", "bodies_repeated", 0, worst=True, ours="perdure-pg"),
    Limit("SLEEP", "idle_cpu_s_per_min", 1, ours="perdure-pg"),
)

FIGURES = {
    "runs_per_s": "runs/s",
    "steps_per_s": "steps/s",
    "events_per_s": "events/s",
    "events_per_commit": "events per commit",
    "p50_ms": "latency p50, ms",
    "p99_ms": "latency p99, ms",
    "cpu_us_per_step": "CPU per step, µs",
    "server_cpu_us_per_step": "CPU of the server per step, µs",
    "statements_per_step": "statements per step",
    "flushes_per_step": "flushes per step",
    "fsyncs_per_step": "fsyncs per step (strace)",
    "recover_s": "recovered after, s",
    "steps_repeated": "step bodies repeated",
    "steps_lost": "step bodies lost",
    "after_wake_s": "drained after the last wake-up, s",
    "parked_kib": "memory per parked run, KiB",
    "rss_start_mb": "memory before, MB",
    "rss_peak_mb": "memory peak, MB",
    "cpu_s": "CPU, s",
    "held_few_kib": "in memory, few: RSS per run, KiB",
    "held_many_kib": "in memory, many: RSS per run, KiB",
    "held_few_heap_kib": "in memory, few: Python heap per run, KiB",
    "held_many_heap_kib": "in memory, many: Python heap per run, KiB",
    "evicted_few_kib": "evicted, few: RSS per run, KiB",
    "evicted_many_kib": "evicted, many: RSS per run, KiB",
    "evicted_few_heap_kib": "evicted, few: Python heap per run, KiB",
    "evicted_many_heap_kib": "evicted, many: Python heap per run, KiB",
    "import_ms": "import, ms",
    "jobs_per_s": "jobs/s, from the first body to the last recorded end",
    "enqueued_per_s": "jobs enqueued/s",
    "bodies_repeated": "bodies repeated",
    "server_cpu_s": "CPU of the server, s",
    "pickup_p50_ms": "pick-up p50, ms",
    "pickup_p99_ms": "pick-up p99, ms",
    "steps_per_s_1": "one process: steps/s",
    "steps_per_s_2": "two processes: steps/s",
    "steps_per_s_4": "four processes: steps/s",
    "cpu_us_per_step_1": "one process: CPU per step, µs",
    "cpu_us_per_step_2": "two processes: CPU per step, µs",
    "cpu_us_per_step_4": "four processes: CPU per step, µs",
    "idle_cpu_s_per_min": "CPU per minute of idling, s",
    "commits_per_run": "commits per run",
    "idle_server_cpu_s_per_min": "CPU of the server per minute of idling, s",
    "idle_queries_per_s": "queries per second per idle worker",
}
"""What the report shows, in this order; a row appears where somebody has the figure."""

_RATES = (
    "cpu_us_per_step", "server_cpu_us_per_step", "statements_per_step", "flushes_per_step", "fsyncs_per_step",
)  # fmt: skip
_PARKED = ("after_wake_s", "parked_kib", "cpu_s", "server_cpu_s", "rss_start_mb", "rss_peak_mb")
_IDLE = ("idle_cpu_s_per_min", "idle_server_cpu_s_per_min", "idle_queries_per_s")
SHOWN = {
    "W1": ("runs_per_s", "p50_ms", "p99_ms", *_RATES),
    "W1P": ("runs_per_s", "p50_ms", "p99_ms", "commits_per_run", *_RATES),
    "W2": ("runs_per_s", "steps_per_s", *_RATES, "rss_start_mb", "rss_peak_mb"),
    "W2S": ("runs_per_s", "steps_per_s", *_RATES),
    "W2F": ("runs_per_s", "steps_per_s", *_RATES),
    "W2H": ("runs_per_s", "steps_per_s", *_RATES, "rss_start_mb", "rss_peak_mb"),
    "W3": ("steps_per_s", *_RATES),
    "W3R": ("recover_s", "steps_repeated", "steps_lost"),
    "W4": _PARKED,
    "W4S": _PARKED,
    "MEM": tuple(name for name in FIGURES if name.startswith(("held", "evicted"))),
    "IMPORT": ("import_ms",),
    "W5": (
        "jobs_per_s", "enqueued_per_s", "bodies_repeated", "pickup_p50_ms", "pickup_p99_ms", "cpu_s", "server_cpu_s",
    ),
    "TURNS": ("events_per_s", "events_per_commit", "p50_ms", "p99_ms", *_RATES),
    "TURNS10": ("events_per_s", "events_per_commit", "p50_ms", "p99_ms", *_RATES),
    "TURNS1": ("events_per_commit", "p50_ms", "p99_ms", *_RATES),
    "TAIL": ("p50_ms", "p99_ms", *_RATES),
    "SCALE": tuple(name for name in FIGURES if name.startswith(("steps_per_s_", "cpu_us_per_step_"))),
    "IDLE": _IDLE,
    "CLUSTER": _IDLE,
    "SLEEP": ("runs_per_s", *_IDLE, "rss_start_mb", "rss_peak_mb"),
}  # fmt: skip
