"""The command line that every peer script shares: one workload in, one JSON line out."""

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from meter import Figures
from sizes import FULL, QUICK, Sizes


@dataclass(frozen=True)
class Job:
    """One measurement: which variant of the peer, how much, where."""

    variant: str
    url: str
    """Of a database that nothing uses yet: sqlite:///… or postgresql://…"""
    sizes: Sizes
    home: Path
    cache: Path
    """Survives the measurement; for files that take long to make."""

    @property
    def file(self) -> Path:
        """The database's file; only where it has one."""
        return Path(self.url.removeprefix("sqlite:///"))


def main(
    workloads: Mapping[str, Callable[[Job], Figures]],
    roles: Mapping[str, Callable[..., None]] | None = None,
) -> None:
    """
    Run one workload and print ``RESULT {figures}``, or play a role in another process's workload.

    Args:
        workloads: What this peer can do, by name.
        roles: What children of a workload do, by name; called with the strings they were given.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("workload", nargs="?")
    parser.add_argument("rest", nargs="*")
    parser.add_argument("--role")
    parser.add_argument("--variant", default="")
    parser.add_argument("--url", default="")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--home", type=Path, default=Path(".bench/scratch"))
    parser.add_argument("--cache", type=Path, default=Path(".bench/cache"))
    given = parser.parse_args()
    if given.role:
        (roles or {})[given.role](*([given.workload] if given.workload else []), *given.rest)
        return
    sizes = QUICK if given.quick else FULL
    home = given.home.resolve()
    job = Job(given.variant, given.url or f"sqlite:///{home / 'bench.db'}", sizes, home, given.cache.resolve())
    for folder in (job.home, job.cache):
        folder.mkdir(parents=True, exist_ok=True)
    print("RESULT " + json.dumps(workloads[given.workload](job)), flush=True)
