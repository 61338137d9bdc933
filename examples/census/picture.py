"""What the demo shows: progress on a terminal or as plain lines, the report, the timeline, the verdict."""

from __future__ import annotations

from collections import Counter
from datetime import datetime
from typing import Self

from ledger import Ledger, Moments
from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from workflow import Report

console = Console(highlight=False)
TOP = 10
ROWS = 24
WIDTH = 50
PLAIN_EVERY = 0.2
SHOWN_ENTRIES = 4


class Progress:
    """A bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._bar = bars.Progress(
            bars.TextColumn("{task.description}"), bars.BarColumn(), bars.TextColumn("{task.completed}/{task.total}"),
            bars.TimeElapsedColumn(), console=console, disable=not console.is_terminal,
        )  # fmt: skip
        self._files = self._bar.add_task("files   ", total=None)
        self._packages = self._bar.add_task("packages", total=None)
        self._said = 0.0

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def update(self, files: int, of_files: int, packages: int, of_packages: int) -> None:
        self._bar.update(self._files, completed=files, total=of_files or None)
        self._bar.update(self._packages, completed=packages, total=of_packages or None)
        share = files / of_files if of_files else 0
        if not console.is_terminal and share >= self._said + PLAIN_EVERY:
            self._said = share
            console.print(f"  {share:4.0%}  {files}/{of_files} files, {packages}/{of_packages} packages")

    def say(self, text: str) -> None:
        self._bar.console.print(text)


def show_report(report: Report) -> None:
    total = report.total
    console.print("\nThe largest modules")
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("module", "lines", "functions", "classes", "documented"):
        table.add_column(name, justify="left" if name == "module" else "right")
    for each in report.largest[:TOP]:
        table.add_row(
            each.file, f"{each.lines:,}", f"{each.functions:,}", f"{each.classes:,}",
            share(each.documented, each.definitions),
        )  # fmt: skip
    table.add_row(
        f"[bold]all {total.files:,} files", f"[bold]{total.lines:,}", f"[bold]{total.functions:,}",
        f"[bold]{total.classes:,}", f"[bold]{share(total.documented, total.definitions)}",
    )  # fmt: skip
    console.print(table)
    if total.unparsed:
        console.print(f"\n{len(total.unparsed)} files are not valid Python here, and are counted as such:")
    for problem in total.unparsed[:TOP]:
        console.print(f"  {escape(problem)}", soft_wrap=True)


def show_journal(ledger: Ledger) -> None:
    """The parent's journal: its first and its last entries."""
    console.print("\nThe parent run's journal")
    shown = ledger.entries if len(ledger.entries) <= 2 * SHOWN_ENTRIES else ledger.entries[:SHOWN_ENTRIES]
    for event in shown:
        console.print(f"  {event.seq:>4}  {event.at:%H:%M:%S.%f}  {event.kind:<16} {escape(event.key)}")
    if len(shown) < len(ledger.entries):
        console.print("     …")
        for event in ledger.entries[-SHOWN_ENTRIES:]:
            console.print(f"  {event.seq:>4}  {event.at:%H:%M:%S.%f}  {event.kind:<16} {escape(event.key)}")


def show_timeline(ledger: Ledger, moments: Moments) -> None:
    """Outcomes over time, from the journals, with the kill in its place."""
    ends = max(outcome.at for outcome in ledger.outcomes)
    step = max(0.1, round((ends - moments.started).total_seconds() / ROWS, 1))

    def row_of(at: datetime) -> int:
        return int((at - moments.started).total_seconds() / step)

    recorded = Counter(row_of(outcome.at) for outcome in ledger.outcomes)
    notes = {
        row_of(moments.killed): f"[bold red]kill -9[/]: {len(moments.recorded)} recorded so far",
        row_of(moments.restarted): "[bold green]a new worker starts[/]",
    }
    if row_of(moments.killed) == row_of(moments.restarted):
        notes[row_of(moments.killed)] = "[bold red]kill -9[/], and [bold green]a new worker starts[/]"
    most = max(recorded.values())
    console.print(f"\nFiles recorded, per {step:g} s")
    for row in range(row_of(ends) + 1):
        bar = "█" * -(-recorded[row] * WIDTH // most)
        console.print(f"  {row * step:5.1f} s  {bar} {recorded[row] or ''}  {notes.get(row, '')}".rstrip())


def show_verdict(checks: list[tuple[bool, str]], recovery: float) -> bool:
    console.print()
    for holds, what in checks:
        console.print(f"{'[green]ok[/]' if holds else '[bold red]NO[/]'}   {what}", soft_wrap=True)
    passed = all(holds for holds, _ in checks)
    console.print(
        f"\nrecovery: {recovery:.2f} s from the start of the new process to its first recorded outcome\n"
        + ("[bold green]Every file was counted exactly once.[/]" if passed else "[bold red]The census is wrong.[/]"),
        soft_wrap=True,
    )
    return passed


def share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "-"
