"""Who is measured on what, and the floors that perdure must reach."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Contestant:
    """One column of the report: a variant of a peer."""

    key: str
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


@dataclass(frozen=True)
class Limit:
    """A figure of perdure's must be at most this; ``worst`` judges the worst repeat, not the median."""

    workload: str
    figure: str
    most: float
    worst: bool = False


_CEILING = frozenset({"W1", "W2", "W2S", "W3"})
_DBOS = frozenset({"W1", "W2", "W3", "W3R", "W4", "W4S", "IMPORT", "IDLE"})
_PERDURE = _CEILING | _DBOS | {"W2H", "MEM"}

CONTESTANTS = (
    Contestant("perdure", "perdure", "", "perdure", _PERDURE),
    Contestant("ceiling-inline", "ceiling", "inline", "ceiling, inline", _CEILING),
    Contestant("ceiling-thread", "ceiling", "thread", "ceiling, thread", _CEILING),
    Contestant("dbos", "dbos", "sqlite", "DBOS, SQLite", _DBOS),
    Contestant("dbos-wal", "dbos", "sqlite-wal", "DBOS, SQLite WAL", _DBOS - {"IMPORT"}),
)

GROUPS = (
    ("W1",),
    ("W3",),
    ("W2S", "W2H", "W2"),
    ("W3R",),
    ("W4",),
    ("W4S",),
    ("MEM",),
    ("IMPORT",),
    ("IDLE",),
)
"""Workloads in the order of a session; those compared with each other take turns, repeat by repeat."""

WORKLOADS = {
    "W1": "one run of one step, one at a time",
    "W2": "runs of 10 steps, all started at once",
    "W2S": "the same, 100 in progress at a time",
    "W2H": "W2 with 1,000,000 finished runs in the file",
    "W3": "one run of 1,000 sequential steps",
    "W3R": "W3 killed at step 900 and started again",
    "W4": "1,000 runs that sleep one second",
    "W4S": "1,000 runs that wait for a signal each",
    "MEM": "memory of one parked run",
    "IMPORT": "import of the package",
    "IDLE": "a worker beside 1,000 sleeping runs",
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
    Ratio("W2H", "steps_per_s", "perdure", 0.85, rival_workload="W2"),
    Ratio("W3", "steps_per_s", "ceiling-inline", 0.7),
    Ratio("W3", "steps_per_s", "ceiling-thread", 0.7),
    Ratio("W3", "steps_per_s", "dbos", 6),
    Ratio("W3", "steps_per_s", "dbos-wal", 6, judged=False),
)

LIMITS = (
    Limit("W3R", "recover_s", 0.6),
    Limit("W3R", "steps_repeated", 1, worst=True),
    Limit("W3R", "steps_lost", 0, worst=True),
    Limit("W4", "after_wake_s", 0.7),
    Limit("W4S", "after_wake_s", 0.7),
    Limit("MEM", "held_few_kib", 10),
    Limit("MEM", "held_many_kib", 10),
    Limit("MEM", "evicted_few_kib", 1),
    Limit("MEM", "evicted_many_kib", 1),
    Limit("IMPORT", "import_ms", 150),
)

FIGURES = {
    "runs_per_s": "runs/s",
    "steps_per_s": "steps/s",
    "p50_ms": "latency p50, ms",
    "p99_ms": "latency p99, ms",
    "cpu_us_per_step": "CPU per step, µs",
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
    "idle_cpu_s_per_min": "CPU per minute of idling, s",
}
"""What the report shows, in this order; a row appears where somebody has the figure."""

_RATES = ("cpu_us_per_step", "flushes_per_step", "fsyncs_per_step")
_PARKED = ("after_wake_s", "parked_kib", "cpu_s", "rss_start_mb", "rss_peak_mb")
SHOWN = {
    "W1": ("runs_per_s", "p50_ms", "p99_ms", *_RATES),
    "W2": ("runs_per_s", "steps_per_s", *_RATES, "rss_start_mb", "rss_peak_mb"),
    "W2S": ("runs_per_s", "steps_per_s", *_RATES),
    "W2H": ("runs_per_s", "steps_per_s", *_RATES, "rss_start_mb", "rss_peak_mb"),
    "W3": ("steps_per_s", *_RATES),
    "W3R": ("recover_s", "steps_repeated", "steps_lost"),
    "W4": _PARKED,
    "W4S": _PARKED,
    "MEM": tuple(name for name in FIGURES if name.startswith(("held", "evicted"))),
    "IMPORT": ("import_ms",),
    "IDLE": ("idle_cpu_s_per_min",),
}
