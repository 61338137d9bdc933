"""`perdure run start`."""

import json
from datetime import date

import pytest

APP = ("--app", "clikit.shop:app")


def stored(terminal, run_id):
    return terminal.done("run", "show", run_id, "--json").json["run"]


def test_prints_the_id_alone(shop):
    """`id=$(perdure run start …)` would get more than the id."""
    answer = shop.done("run", "start", *APP, "buy", "tea")
    assert answer.out.strip() == stored(shop, answer.out.strip())["id"]
    assert "The run begins when a worker that has it is started: no worker is alive." in answer.err


def test_the_run_as_json(shop):
    """A script could not see what it has started."""
    run = shop.done(
        "run", "start", *APP, "buy", "tea", "--id", "a", "--tag", "x", "--tag", "y", "--delay", "1h", "--timeout", "2h",
        "--json",
    ).json["run"]  # fmt: skip
    assert (run["id"], run["workflow"], run["status"]) == ("a", "buy", "queued")
    assert stored(shop, "a")["tags"] == ["x", "y"]
    created, due, deadline = run["created_at"], run["due_at"], run["deadline_at"]
    assert created < due < deadline
    assert all(text.endswith("+00:00") for text in (created, due, deadline))


@pytest.mark.parametrize(
    "words",
    [
        ("tea", "2"), ('"tea"', "2"), ("-i", '{"item": "tea", "count": 2}'), ("tea", "-i", '{"count": 2}'),
        ("tea", '"2"'), ("-i", "@in.json"), ("-i", "-"),
    ],
)  # fmt: skip
def test_the_ways_to_give_an_input(shop, words):
    """The same input, given in another way, would start another run."""
    given = '{"count": 2, "item": "tea"}'
    (shop.folder / "in.json").write_text(given)
    shop.done("run", "start", *APP, "buy", "--id", "a", "--input", given)
    shop.done("run", "start", *APP, "buy", "--id", "a", *words, stdin=given)
    assert stored(shop, "a")["input"] == {"item": "tea", "count": 2}


def test_the_input_of_any_signature(shop):
    """Workflows with collected or named parameters could not be started from a shell."""
    shop.done("run", "start", *APP, "basket", "tea", "milk", "-i", '{"wrapped": 1, "card": "x"}', "--id", "a")
    assert stored(shop, "a")["input"] == {"*items": ["tea", "milk"], "wrapped": True, "**notes": {"card": "x"}}
    answer = shop.run("run", "start", *APP, "book", "2026-08-01", "[1]", "-i", '{"seats": [2]}')
    assert answer.code == 2
    assert "multiple values for argument 'seats'" in answer.err


def test_the_input_is_that_of_the_same_start_in_python(shop):
    """A run started by a program would be another one for who starts it again by hand."""
    given = date(2026, 8, 1), {3, 1}, b"\x00\xff"
    shop.play(lambda app: app.start("book", *given, id="a"))
    shop.done("run", "start", *APP, "book", "2026-08-01", "[1, 3]", '"AP8="', "--id", "a")
    answer = shop.run("run", "start", *APP, "book", "2026-08-32", "[1, 3]")
    assert answer.code == 2
    assert "'day'" in answer.err


def test_defaults_are_not_stored(shop):
    """A run started by hand would differ from the one that the program starts with the same id."""
    shop.done("run", "start", *APP, "buy", "tea", "--id", "a")
    assert stored(shop, "a")["input"] == {"item": "tea"}
    shop.play(lambda app: app.start("buy", "tea", id="a"))


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("buy",), "invalid_input", "missing a required argument: 'item'"),
        (("buy", "tea", "many"), "invalid_input", "'count'"),
        (("buy", "tea", "1", "2"), "invalid_input", "too many positional arguments"),
        (("buy", "-i", '{"thing": 1}'), "invalid_input", "'item'"),
        (("buy", "-i", '{"item": "tea"'), "invalid_option", "not JSON"),
        (("sell", "tea"), "unknown_workflow", "'sell'"),
        (("buy", "tea", "--delay", "soon"), "invalid_option", "--delay"),
        (("buy", "tea", "--id", "\n"), "invalid_name", "run id"),
    ],
)
def test_what_is_refused(shop, words, code, told):
    """A run would be stored that can only fail."""
    answer = shop.run("run", "start", *APP, *words, "--json")
    assert (answer.code, answer.problem["code"]) == (2, code)
    assert told in answer.problem["message"]
    assert shop.done("run", "list", "--json").json["runs"] == []


def test_another_input_under_the_same_id(shop):
    """Somebody would take an old run for the one just started."""
    shop.done("run", "start", *APP, "buy", "tea", "--id", "a")
    answer = shop.run("run", "start", *APP, "buy", "milk", "--id", "a", "--json")
    assert (answer.code, answer.problem["code"], answer.problem["run_id"]) == (3, "start_conflict", "a")


def test_without_the_app(shop):
    """Who has the database but not the code could start nothing, or start what no worker has."""
    answer = shop.run("run", "start", "buy", "--input", '{"item": "tea"}', "--json")
    assert answer.code == 2
    assert "no worker of this database has ever had one named 'buy' (known: none)" in answer.problem["message"]
    shop.bought("first")
    shop.done("run", "start", "buy", "--input", '{"item": "tea", "count": 3}', "--id", "a")
    assert stored(shop, "a")["input"] == {"item": "tea", "count": 3}
    assert shop.run("run", "start", "sell").code == 2
    answer = shop.run("run", "start", "buy", "tea")
    assert answer.code == 2
    assert "--input" in answer.err

    async def main(app):
        return await app.handle("a").result()

    assert shop.play(main) == {"item": "tea", "total": 9}


def test_a_new_database_is_made_for_the_app_only(terminal):
    """The first run of a new app would need a command before it."""
    assert terminal.run("run", "start", "buy", "--url", terminal.url).code == 7
    terminal.done("run", "start", *APP, "--url", terminal.url, "buy", "tea", "--id", "a")
    assert terminal.done("run", "list", "--url", terminal.url, "--json").json["runs"][0]["id"] == "a"


def test_waiting_for_a_run_that_has_ended(shop):
    """The result would be printed only to who waited from the beginning."""
    shop.bought("a")
    shop.play(lambda app: _ended(app, "broke", "b"))
    answer = shop.done("run", "start", *APP, "buy", "tea", "--id", "a", "--wait")
    assert answer.out == '{\n  "item": "tea",\n  "total": 3\n}\n'
    told = shop.done("run", "start", *APP, "buy", "tea", "--id", "a", "--wait", "--json").json
    assert (told["result"], told["run"]["status"]) == ({"item": "tea", "total": 3}, "completed")
    failed = shop.run("run", "start", *APP, "broke", "--id", "b", "--wait", "--json")
    assert (failed.code, failed.out, failed.problem["code"]) == (5, "", "run_failed")
    assert failed.problem["cause"] == {"type": "builtins:ValueError", "message": "the till is empty"}


def test_progress_is_no_part_of_the_result(shop):
    """`perdure run start --wait > result.json` at a terminal would put the spinner into the file."""
    shop.bought("a")
    answer = shop.done("run", "start", *APP, "buy", "tea", "--id", "a", "--wait", FORCE_COLOR="1")
    assert json.loads(answer.out) == {"item": "tea", "total": 3}
    assert "a  2 completed" in answer.err


async def _ended(app, workflow, run_id):
    handle = await app.start(workflow, id=run_id)
    async for _ in handle.events():
        pass


def test_waiting_for_a_cancelled_run(shop):
    """A script could not tell a cancelled run from a failed one."""

    async def main(app):
        handle = await app.start("order", id="a")
        await handle.cancel("not now")
        async for _ in handle.events():
            pass

    shop.play(main)
    answer = shop.run("run", "start", *APP, "order", "--id", "a", "--wait")
    assert answer.code == 6
    assert "was cancelled: not now" in answer.err
