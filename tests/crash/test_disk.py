"""A full disk: typed errors, nothing lost, and work goes on when there is space again."""

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from crashkit import roles
from crashkit.check import check, check_all_ended
from crashkit.harness import Child, Place

pytestmark = pytest.mark.crash

KIB = 1024
LARGE = "x" * 30_000
"""Stored in the row itself, and larger than any free space in the database's pages."""


def test_full_database_refuses_with_a_typed_error_and_goes_on_when_there_is_space(place: Place):
    """SQLITE_FULL in the middle of a batch would lose an outcome, kill the worker or confuse a client."""
    worker = _busy_worker(place)
    worker.ask("pages", 0)
    _nothing_can_be_stored(place, worker, {"StoreFull"})
    worker.ask("pages", None)
    _all_goes_on(place, worker)


def test_failing_writes_refuse_with_a_typed_error_and_go_on_when_they_succeed(place: Place):
    """An error of the operating system in write() would lose an outcome, kill the worker or confuse a client."""
    worker = _busy_worker(place)
    wal = place.database.with_name("perdure.db-wal")
    assert wal.stat().st_size > 64 * KIB, "the log is to be longer than the limit, so that every write to it fails"
    worker.ask("file_size", 64 * KIB)
    _nothing_can_be_stored(place, worker, {"StoreFull"})
    worker.ask("file_size", -1)
    _all_goes_on(place, worker)


def test_full_disk_refuses_with_a_typed_error_and_goes_on_when_there_is_space(tmp_path: Path):
    """The real thing, ENOSPC, would lose an outcome, kill the worker or confuse a client."""
    with _small_disk(tmp_path / "disk", 2_000 * KIB) as disk, Place(tmp_path, disk) as place:
        worker = _busy_worker(place)
        ballast = disk / "ballast"
        with ballast.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while file.write(b"x" * KIB):
                pass
        _nothing_can_be_stored(place, worker, {"StoreFull"})
        ballast.unlink()
        _all_goes_on(place, worker)


def _busy_worker(place: Place) -> Child:
    """A worker in whose only run a body runs that will have a large result."""
    worker = place.start(roles.worker, worker={"lease": 0.5})
    worker.expect("ready")
    assert worker.ask("start", "many_steps", [20], "before") == "before"
    assert worker.ask("result", "before") == sum(range(20))
    assert worker.ask("start", "grows", ["go", len(LARGE)], "held") == "held"
    place.until((place.folder / "go-begun-0").exists, "the body")
    return worker


def _nothing_can_be_stored(place: Place, worker: Child, problems: set[str]) -> None:
    problem, message = worker.ask("start", "takes", [LARGE], "refused")
    assert problem in problems, message
    assert str(place.database) in message
    (place.folder / "go").touch()
    place.until(lambda: "run held: its progress is not stored yet" in worker.logged(), "the complaint")
    assert worker.ask("statistics")["driven"] == 1, "the worker is to keep the run whose outcome it cannot store"
    with place.read() as database:
        check(database)


def _all_goes_on(place: Place, worker: Child) -> None:
    assert worker.ask("result", "held") == len(LARGE)
    assert worker.ask("start", "takes", [LARGE], "accepted") == "accepted"
    assert worker.ask("result", "accepted") == len(LARGE)
    assert place.rows("select id from perdure_runs order by number") == [("before",), ("held",), ("accepted",)]
    assert len([deed for deed in place.deeds() if deed.run == "held"]) == 1, "its outcome was only to be kept"
    worker.terminate()
    assert worker.join() == 0, str(worker)
    with place.read() as database:
        check_all_ended(database)


@contextlib.contextmanager
def _small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of its own, of so many bytes; only who may mount one can have it."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],  # noqa: S607 - wherever mount is
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607 - as above
