"""
The benchmark: perdure, the bare ceiling, DBOS and absurd, side by side in one session.

    .venv/bin/python bench/run.py [--store sqlite|postgres|all] [--workloads W1,W2] [--repeat 3]
                                  [--peers perdure,ceiling,dbos,absurd] [--quick] [--strict]

Every measurement is a fresh process with a fresh database, on Postgres one of the session's only server,
and peers take turns, so that noise hits them alike. Prints one report; keeps it in .bench/report.md
and every figure in .bench/results.jsonl.
"""

import argparse
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import report
from contestants import CONTESTANTS, GROUPS, Contestant
from meter import disk_flushes
from server import Postgres
from venvs import interpreter

HERE = Path(__file__).resolve().parent
HOME = HERE.parent / ".bench"
LIMIT_S, QUICK_LIMIT_S = 900, 60
TRACED = {"W1", "W2", "W2S", "W3", "TURNS"}


def arguments() -> argparse.Namespace:
    """The command line; workloads and peers become lists, unknown names end the program."""
    known = [name for group in GROUPS for name in group]
    peers = list(dict.fromkeys(one.peer for one in CONTESTANTS))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--store", choices=("sqlite", "postgres", "all"), default="all")
    parser.add_argument("--workloads", default=",".join(known))
    parser.add_argument("--peers", default=",".join(peers))
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--quick", action="store_true", help="small sizes: does it work at all?")
    parser.add_argument("--strict", action="store_true", help="exit 1 when a floor is missed")
    given = parser.parse_args()
    given.stores = ("sqlite", "postgres") if given.store == "all" else (given.store,)
    for name, choices in (("workloads", known), ("peers", peers)):
        chosen = getattr(given, name).split(",")
        if unknown := [item for item in chosen if item not in choices]:
            parser.error(f"--{name}: {', '.join(unknown)} not in {', '.join(choices)}")
        setattr(given, name, chosen)
    return given


def plan(given: argparse.Namespace) -> Iterator[tuple[int, str, Contestant]]:
    """Every measurement in order: within a group, all peers once, then all peers again."""
    chosen = [one for one in CONTESTANTS if one.peer in given.peers]
    for store in given.stores:
        for group in GROUPS:
            for repeat in range(given.repeat):
                for workload in (name for name in group if name in given.workloads):
                    for one in chosen:
                        if one.store == store and workload in one.workloads:
                            yield repeat, workload, one


def run_child(command: list[str], log: Path, environment: dict[str, str], limit_s: float) -> tuple[str, str]:
    """Run to the end or the time limit, with its own children; returns stdout and what went wrong."""
    with log.open("w") as errors:
        child = subprocess.Popen(
            command, cwd=HERE.parent, stdout=subprocess.PIPE, stderr=errors, text=True,
            start_new_session=True, env=os.environ | environment,
        )  # fmt: skip
        try:
            out, _ = child.communicate(timeout=limit_s)
        except subprocess.TimeoutExpired:
            os.killpg(child.pid, signal.SIGKILL)
            out, _ = child.communicate()
            return out, f"no result within {limit_s} s"
        except KeyboardInterrupt:
            os.killpg(child.pid, signal.SIGKILL)
            raise
    return out, "" if child.returncode == 0 else f"exit code {child.returncode}, see {log}"


def measure(
    workload: str, one: Contestant, server: Postgres | None, *, quick: bool, log: Path, trace: bool = False
) -> dict:
    """One measurement in a process, a folder and a database of its own; ``figures`` or ``error``."""
    scratch = HOME / "scratch"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    url, environment = f"sqlite:///{scratch / 'bench.db'}", {}
    if one.store == "postgres" and server is not None:
        server.fresh()
        url, environment = server.url, server.environment
    command = [
        str(interpreter(one.peer, HOME / "venvs")), str(HERE / f"peer_{one.peer}.py"), workload,
        "--variant", one.variant, "--url", url, "--home", str(scratch), "--cache", str(HOME / "cache"),
        *(["--quick"] if quick else []),
    ]  # fmt: skip
    counts = log.with_suffix(".strace")
    if trace:
        command = ["strace", "-f", "-c", "-o", str(counts), "-e", "trace=fsync,fdatasync", *command]
    out, error = run_child(command, log, environment, QUICK_LIMIT_S if quick else LIMIT_S)
    shutil.rmtree(scratch, ignore_errors=True)
    lines = [line for line in out.splitlines() if line.startswith("RESULT ")]
    if error or not lines:
        return {"error": error or f"printed no result, see {log}"}
    figures = json.loads(lines[-1].removeprefix("RESULT "))
    if trace:
        return {"figures": {"fsyncs_per_step": round(fsyncs(counts) / figures["steps"], 4)}}
    return {"figures": figures}


def fsyncs(counts: Path) -> int:
    """Calls in a summary of ``strace -c``; those of starting up are among them."""
    row = r"^\s*[\d.]+\s+[\d.]+\s+\d+\s+(\d+).*\bf(?:data)?sync$"
    rows = re.findall(row, counts.read_text(), re.MULTILINE)
    return sum(map(int, rows))


def session(given: argparse.Namespace, server: Postgres | None) -> list[dict]:
    """Measure everything; each record is also appended to the results file as it comes."""
    name = uuid.uuid4().hex[:12]
    logs = HOME / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    (HOME / ".gitignore").write_text("*\n")
    blind = not disk_flushes() and shutil.which("strace") is not None
    records = []
    for repeat, workload, one in plan(given):
        log = logs / f"{workload}-{one.key}-{repeat}.log"
        load = os.getloadavg()[0]
        record = {
            "session": name,
            "at": time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime()),
            "contestant": one.key,
            "workload": workload,
            "repeat": repeat,
            "quick": given.quick,
            "load_before": round(load, 2),
            **measure(workload, one, server, quick=given.quick, log=log),
        }
        if blind and one.store == "sqlite" and repeat == 0 and workload in TRACED and "figures" in record:
            traced = measure(workload, one, server, quick=given.quick, log=log, trace=True)
            record["figures"] |= traced.get("figures", {})
        records.append(record)
        with (HOME / "results.jsonl").open("a") as results:
            results.write(json.dumps(record) + "\n")
        said = record.get("error") or f"{record['figures'].get('wall_s', '')} s"
        print(f"{workload} {one.key} #{repeat + 1}: {said}", file=sys.stderr, flush=True)
    return records


def main() -> int:
    """Exit code 2 when a measurement failed, 1 when a floor is missed under --strict, else 0."""
    given = arguments()
    # Installed software runs from its compiled files; without them each start would compile perdure anew.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Ends as on Ctrl-C, so that the server goes with us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    HOME.mkdir(exist_ok=True)
    for peer in given.peers:
        interpreter(peer, HOME / "venvs")
    with Postgres(HOME / "postgres") if "postgres" in given.stores else nullcontext() as server:
        records = session(given, server)
    if not records:
        print("nothing to measure: these peers have none of these workloads", file=sys.stderr)
        return 2
    verdicts = report.write(report.Session(records), HOME / "report.md")
    if any("error" in record for record in records):
        return 2
    missed = [one for one in verdicts if one.judged and not one.reached]
    return 1 if given.strict and missed else 0


if __name__ == "__main__":
    sys.exit(main())
