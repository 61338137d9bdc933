"""`perdure db`, `perdure doctor` and `perdure workers`."""

from contextlib import closing

import apsw
import pytest
from clikit.terminal import Terminal

from perdure.store.migrate import migrations

KNOWN = migrations("sqlite")


def test_migrate_reports_versions(terminal):
    """Nobody would know whether a deployment has changed the database."""
    first = terminal.done("db", "migrate", "--url", terminal.url, "--json").json
    assert first["from_version"] == 0
    assert first["to_version"] == len(first["applied"]) >= 1
    assert first["applied"][0] == {"version": 1, "name": "initial"}
    again = terminal.done("db", "migrate", "--url", terminal.url, "--json").json
    assert again == first | {"from_version": first["to_version"], "applied": []}
    assert "Nothing was to be done" in terminal.done("db", "migrate", "--url", terminal.url).out
    assert "went from schema version 0" in terminal.done("db", "migrate", "--url", "sqlite:///other.db").out


def test_migrate_prints_its_sql(terminal):
    """Whoever has to review it first would get what the database has already, or nothing for one out of reach."""
    asked = ("db", "migrate", "--sql", "--url", terminal.url)
    whole = terminal.done(*asked).out
    assert (whole.count("create table perdure_runs"), whole.count("insert into perdure_schema")) == (1, len(KNOWN))
    assert not (terminal.folder / "shop.db").exists()
    with closing(apsw.Connection(str(terminal.folder / "shop.db"))) as connection:
        connection.execute(KNOWN[0].sql)
        connection.execute("insert into perdure_schema values (1, 'initial', 1)")
    rest = terminal.done(*asked).out
    assert (rest.count("create table perdure_runs"), rest.count("insert into perdure_schema")) == (0, len(KNOWN) - 1)
    with closing(apsw.Connection(str(terminal.folder / "shop.db"))) as connection:
        connection.execute(rest)
    assert "Nothing is to be done" in terminal.done(*asked).out
    assert "Nothing was to be done" in terminal.done("db", "migrate", "--url", terminal.url).out
    away = terminal.done("db", "migrate", "--sql", "--from", len(KNOWN) - 1, "--url", "postgresql://x.invalid/db").out
    assert away.count("perdure_schema (version") == 1
    assert terminal.run(*asked, "--from", 99).code == 2
    assert terminal.run("db", "migrate", "--from", 0, "--url", terminal.url).code == 2


def test_migrate_where_there_is_no_folder(terminal):
    """A misspelt folder would give an error of the operating system."""
    answer = terminal.run("db", "migrate", "--url", "sqlite:///nowhere/shop.db", "--json")
    assert (answer.code, answer.problem["code"]) == (7, "store_unavailable")


def test_backup(shop, tmp_path):
    """A backup would lack what is only in the write-ahead log, or overwrite an older one."""
    shop.bought("a")
    told = shop.done("db", "backup", "copy.db", "--json").json
    assert told == {"target": "copy.db", "bytes": (tmp_path / "copy.db").stat().st_size}
    copy = shop.done("run", "show", "a", "--url", "sqlite:///copy.db", "--json").json
    assert copy["run"]["status"] == "completed"
    assert shop.run("db", "backup", "copy.db").code == 2
    assert "Copied to more.db" in shop.done("db", "backup", "more.db").out


def test_prune(shop: Terminal):
    """The database would grow for ever, or lose runs that are still needed."""
    shop.bought("a", "b")
    shop.parked("c")
    assert shop.done("db", "prune", "--older-than", "1h", "--json").json == {"removed": 0}
    assert shop.done("db", "prune", "--older-than", "0", "--status", "failed", "--json").json == {"removed": 0}
    assert shop.done("db", "prune", "--older-than", "0", "--trees", 1).out == "Removed 2 runs.\n"
    assert [run["id"] for run in shop.done("run", "list", "--json").json["runs"]] == ["c"]


@pytest.mark.parametrize("words", [(), ("--older-than", "soon"), ("--older-than", "0", "--status", "waiting")])
def test_prune_must_be_told_what(shop, words):
    """Everything that has ended would be removed by a slip of the pen."""
    shop.bought("a")
    assert shop.run("db", "prune", *words).code == 2
    assert shop.done("db", "info", "--json").json["runs"]["completed"] == 1


def test_info(shop):
    """Nobody would see how much there is of what."""
    shop.bought("a", "b")
    shop.parked("c")
    told = shop.done("db", "info", "--json").json
    assert {status: count for status, count in told["runs"].items() if count} == {"completed": 2, "waiting": 1}
    assert (told["url"], told["workers_alive"]) == (shop.url, 0)
    assert told["bytes"] > 0
    assert "completed  2" in shop.done("db", "info").out


def test_a_healthy_database(shop):
    """A check in a pipeline would fail although nothing is wrong."""
    shop.bought(*"abcdefghij")
    told = shop.done("doctor", "--json").json
    assert told["healthy"] is True
    assert {finding["severity"] for finding in told["findings"]} <= {"note"}
    people = shop.done("doctor").out
    assert "is healthy. Runs: 10." in people
    assert "more" not in people  # the sizes are facts, and no examples of so many runs


def test_a_sick_database(shop):
    """A lost run would not be found, or a script would not notice that it was."""
    shop.bought("a")
    shop.parked("b")

    shop.damage("update perdure_runs set waiting_for = null, due_at = null where id = 'b'")
    answer = shop.run("doctor", "--json")
    assert answer.code == 8
    assert answer.json["healthy"] is False
    worst = answer.json["findings"][0]
    assert (worst["severity"], worst["count"], worst["examples"]) == ("error", 1, ["b"])
    assert set(worst) == {"code", "severity", "message", "what_to_do", "count", "examples"}
    people = shop.run("doctor")
    assert people.code == 8
    assert people.out.startswith("error  ")
    assert "is not healthy" in people.out


def test_no_workers(shop):
    """Somebody whose runs do not move would not see that nobody drives them."""
    assert shop.done("workers", "--json").json == {"workers": []}
    assert "No workers are alive" in shop.done("workers").err
    shop.bought("a")
    assert shop.done("workers", "--json").json == {"workers": []}
    (left,) = shop.done("workers", "--all", "--json").json["workers"]
    assert left["state"] == "left"
    assert "buy" in left["workflows"]
    assert " left " in shop.done("workers", "--all").out
