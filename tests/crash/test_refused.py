"""Files that cannot be used: each a typed error that says why, and the file stays as it was."""

import asyncio
import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest
from crashkit import roles
from crashkit.check import check_all_ended
from crashkit.harness import Place

from perdure import App
from perdure.errors import SchemaTooNew, StoreCorrupt, StoreUnavailable

pytestmark = pytest.mark.crash

UNPRIVILEGED = 65_534


@pytest.fixture
def public() -> Iterator[Path]:
    """A folder that other users can reach; pytest's own is closed to them."""
    folder = Path(tempfile.mkdtemp(prefix="perdure-crash-"))
    folder.chmod(0o777)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)


@pytest.mark.parametrize("what", ["file", "file and folder", "file and folder, after a crash"])
def test_read_only_database_is_refused_and_stays_as_it_was(place: Place, public: Path, what: str):
    """A database without the right to write would fail late and unclearly, or be damaged."""
    worker = place.start(roles.worker)
    worker.expect("ready")
    worker.ask("start", "many_steps", [5], "run")
    worker.ask("result", "run")
    if "crash" in what:
        worker.kill()
    else:
        worker.terminate()
        worker.join()
    for file in place.folder.glob("perdure.db*"):
        shutil.copy(file, public)
        (public / file.name).chmod(0o444)
    if "folder" in what:
        public.chmod(0o555)
    before = _contents(public)

    child = place.start(roles.refused, url=f"sqlite:///{public}/perdure.db", user=UNPRIVILEGED)
    for way in ("as a worker", "as a client"):
        problem, message = child.expect(way)
        assert problem == "StoreReadOnly", message
        assert f"{public}/perdure.db" in message
        assert "permissions" in message
    assert child.join() == 0, str(child)
    assert _contents(public).items() >= before.items()


def test_unreachable_database_is_refused(place: Place, public: Path):
    """A database that this user may not even read would be reported as something else."""
    shutil.copy(place.database, public)
    (public / "perdure.db").chmod(0)
    child = place.start(roles.refused, url=f"sqlite:///{public}/perdure.db", user=UNPRIVILEGED)
    for way in ("as a worker", "as a client"):
        problem, message = child.expect(way)
        assert problem in {"StoreReadOnly", "StoreUnavailable"}, message
        assert f"{public}/perdure.db" in message


def test_text_file_is_refused_and_stays_as_it_was(tmp_path: Path):
    """Somebody's notes would be overwritten by a database."""
    file = tmp_path / "notes.txt"
    file.write_text("These are my notes.\n" * 500)
    before = file.read_bytes()
    with pytest.raises(StoreCorrupt, match=r"not an SQLite database.*notes\.txt"):
        _use(file)
    assert file.read_bytes() == before
    assert list(tmp_path.iterdir()) == [file]


def test_damaged_database_is_refused(place: Place):
    """Damaged pages would be read as if they were runs, or the error would not say what to do."""
    with place.read() as database:
        pages = database.execute("pragma page_count").get
    content = bytearray(place.database.read_bytes())
    size = len(content) // pages
    content[size:] = b"\xa5" * (len(content) - size)
    place.database.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="restore a backup"):
        _use(place.database)
    assert place.database.read_bytes() == content


def test_folder_that_does_not_exist_is_refused(tmp_path: Path):
    """A mistyped path would be reported as SQLite's "unable to open database file"."""
    with pytest.raises(StoreUnavailable, match=f"The folder {tmp_path}/no/such does not exist"):
        _use(tmp_path / "no" / "such" / "perdure.db")
    assert not list(tmp_path.iterdir())


def test_folder_in_place_of_the_file_is_refused(tmp_path: Path):
    """A path that names a folder would be reported unclearly."""
    with pytest.raises(StoreUnavailable, match=str(tmp_path)):
        _use(tmp_path)


def test_database_of_a_newer_perdure_is_refused_and_stays_as_it_was(place: Place):
    """An old program would write rows that the newer one cannot read."""
    with place.read() as database:
        database.execute("insert into perdure_schema (version, name, applied_at) values (999, 'later', 0)")
    before = place.database.read_bytes()
    with pytest.raises(SchemaTooNew, match="schema version 999"):
        _use(place.database)
    assert place.database.read_bytes() == before


def test_short_lock_of_another_process_is_sat_out(place: Place):
    """A backup or a shell that holds the file for a moment would make callers fail."""
    client = place.start(roles.client)
    worker = place.start(roles.worker)
    client.expect("ready")
    worker.expect("ready")
    with _locked(place):
        client.tell("start", "many_steps", [3], "run")
        assert not client.says_something(1.0), "nothing can be stored, so nothing can be answered"
    assert client.expect("answer") == "run"
    assert client.ask("result", "run") == 3


def test_long_lock_is_a_typed_error_for_clients_and_no_end_of_workers(place: Place):
    """Waiting for ever, an error of the driver's, or a worker that gives up would be the answer to a lock."""
    client = place.start(roles.client, patience_ms=150)
    worker = place.start(roles.worker, patience_ms=150)
    client.expect("ready")
    worker.expect("ready")
    client.ask("start", "waits_for_file", ["go"], "run")
    place.until((place.folder / f"go-begun-{place.children.index(worker)}").exists, "the body")
    with _locked(place):
        problem, message = client.ask("start", "many_steps", [3], "refused")
        assert problem == "StoreBusy", message
        assert str(place.database) in message
        (place.folder / "go").touch()
        place.until(lambda: "run run: its progress is not stored yet" in worker.logged(), "the worker's complaint")
    assert client.ask("result", "run") == "1 go 2"
    assert client.ask("start", "many_steps", [3], "accepted") == "accepted"
    assert client.ask("result", "accepted") == 3
    assert place.value("select count(*) from perdure_runs") == 2
    assert len(place.deeds()) == 3 + 3, "what could not be stored was to be kept, not to be done again"
    with place.read() as database:
        check_all_ended(database)


def _use(file: Path) -> None:
    async def main() -> None:
        async with App(f"sqlite:///{file}").connected():
            pass

    asyncio.run(main())


def _contents(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir() if not file.name.endswith("-shm")}


@contextlib.contextmanager
def _locked(place: Place) -> Iterator[None]:
    """This process holds the database as a backup or a shell would."""
    database = apsw.Connection(str(place.database))
    database.set_busy_timeout(10_000)
    try:
        database.execute("begin exclusive")
        yield
        database.execute("rollback")
    finally:
        database.close()
