"""`perdure run list`, `show`, `tail` and `export`: what they print."""

import json
import re
from datetime import datetime

import pytest
from clikit import shop as kit

from perdure import App, Context, Retry, RunFailed

COLOUR = re.compile(r"\x1b\[(?:\d+;)*3\d(?:;\d+)*m")
WIDE = "a-run-with-a-rather-long-identity-of-its-own"


def ids(answer):
    return [run["id"] for run in answer.json["runs"]]


def test_list_newest_first_page_by_page(shop):
    """Runs beyond the first page could not be seen, or some would be seen twice."""
    shop.bought("a", "b", "c", "d", "e")
    first = shop.done("run", "list", "--limit", 2, "--json")
    assert ids(first) == ["e", "d"]
    second = shop.done("run", "list", "--limit", 2, "--after", first.json["next"], "--json")
    assert ids(second) == ["c", "b"]
    third = shop.done("run", "list", "--limit", 2, "--after", second.json["next"], "--json")
    assert (ids(third), third.json["next"]) == (["a"], None)
    people = shop.done("run", "list", "--limit", 2)
    assert f"--after {first.json['next']}" in people.err
    assert shop.done("run", "list").err == ""


def test_list_by_each_filter(shop):
    """A filter would be ignored, and somebody would cancel runs that he did not mean."""
    shop.bought("a", tags=["red"])
    shop.bought("b", tags=["blue"])
    shop.parked("c")
    shop.play(lambda app: _result(app, "family", ["x", "yy"], "f"))
    for words, found in [
        (("--status", "waiting"), ["c"]),
        (("--status", "waiting", "--status", "completed", "--workflow", "order"), ["c"]),
        (("--workflow", "buy", "--tag", "red"), ["a"]),
        (("--tag", "blue"), ["b"]),
        (("--parent", "f"), ["f/~2/buy", "f/~1/buy"]),
        (("--parent", "nobody"), []),
        (("--since", "1h", "--workflow", "order"), ["c"]),
        (("--until", "1h"), []),
        (("--since", "2000-01-01", "--until", "2001-01-01"), []),
    ]:
        assert ids(shop.done("run", "list", *words, "--json")) == found, words


async def _result(app, workflow, *args):
    *given, run_id = args
    return await (await app.start(workflow, *given, id=run_id)).result()


def test_list_without_a_terminal_is_plain_and_whole(shop):
    """A pipe would get colours, padding, or names that are cut."""
    shop.bought(WIDE)
    shop.parked("b")
    out = shop.done("run", "list").out
    assert "\x1b" not in out
    lines = out.splitlines()
    assert [line for line in lines if line != line.rstrip()] == []
    assert re.split(r"  +", lines[0]) == ["RUN", "WORKFLOW", "STATUS", "CREATED", "TOOK"]
    assert re.match(r"b +order +waiting +[\d-]+ [\d:]+ +for signal:approval$", lines[1])
    assert re.match(rf"{WIDE}  buy +completed  [\d-]+ [\d:]+  [\d.]+ m?s$", lines[2])


def test_list_fits_a_narrow_terminal(shop):
    """Lines would be broken anywhere, and an id could not be copied."""
    shop.bought(WIDE)
    out = shop.done("run", "list", FORCE_COLOR="1", COLUMNS="70").out
    assert COLOUR.search(out)
    shown = re.sub(r"\x1b\[[\d;]*m", "", out).splitlines()
    assert max(map(len, shown)) <= 70
    assert WIDE in "".join(line[: shown[0].index("WORKFLOW")].strip() for line in shown[1:])


def test_no_color(shop):
    """NO_COLOR would be ignored."""
    shop.bought("a")
    assert not COLOUR.search(shop.done("run", "list", FORCE_COLOR="1", NO_COLOR="1").out)


def test_stored_text_cannot_steer_the_terminal(shop):
    """A signal's text could hide lines of the list, or worse."""
    shop.parked("a")
    shop.done("run", "pause", "a", "--reason", "\x1b[2Jgone\x9b31m [red]x[/red]")
    for words in (("list",), ("show", "a"), ("tail", "a", "--no-follow"), ("show", "a", "--full")):
        out = shop.done("run", *words).out
        assert "\x1b" not in out
        assert "\x9b" not in out
        assert "[red]x[/red]" in out


def test_show_a_completed_run(shop):
    """Nobody could see what a run was given, what it did and what came of it."""
    shop.bought("a", tags=["red", "blue"])
    told = shop.done("run", "show", "a", "--json").json
    expected = {
        "id": "a", "workflow": "buy", "status": "completed", "generation": 1, "tags": ["blue", "red"],
        "input": {"item": "tea"}, "output": {"item": "tea", "total": 3}, "error": None,
    }  # fmt: skip
    assert {key: told["run"][key] for key in expected} == expected
    assert told["children"] == {"runs": [], "next": None}
    columns = ("seq", "kind", "key", "attempt", "data")
    assert [tuple(entry[column] for column in columns) for entry in told["journal"]] == [
        (1, "step_completed", "price", 1, 3),
        (2, "completed", "", None, None),
    ]
    assert told["earlier_entries"] == 0
    out = shop.done("run", "show", "a").out
    for pattern in (
        r"^a  completed$", r"^  workflow +buy$", r"^  tags +blue, red$", r'^  input +\{"item": "tea"\}$',
        r'^  result +\{"item": "tea", "total": 3\}$', r"^  ended .* after its start$",
        r"^ +1  [\d.]+ m?s +step_completed  price +1  [\d.]+ m?s +3$",
    ):  # fmt: skip
        assert re.search(pattern, out, re.MULTILINE), (pattern, out)


def test_show_a_failed_run(shop):
    """The error would have to be looked for in the log of some worker."""
    shop.play(lambda app: _fail(app, "a"))
    out = shop.done("run", "show", "a").out
    assert re.search(r"^  error +ValueError: the till is empty$", out, re.MULTILINE)
    assert re.search(r"step_failed +fail +1 .* ValueError: the till is empty$", out, re.MULTILINE)
    assert "Traceback" not in out
    assert "in fail" in shop.done("run", "show", "a", "--full").out
    assert shop.done("run", "show", "a", "--json").json["run"]["error"]["type"] == "builtins:ValueError"


async def _fail(app, run_id):
    handle = await app.start("broke", id=run_id)
    async for _ in handle.events():
        pass


def test_show_a_family(shop):
    """The tree of runs could not be walked, neither down nor up."""
    shop.play(lambda app: _result(app, "family", ["x", "yy"], "f"))
    told = shop.done("run", "show", "f", "--json").json
    assert ids(shop.done("run", "list", "--parent", "f", "--json")) == ["f/~2/buy", "f/~1/buy"]
    assert [run["id"] for run in told["children"]["runs"]] == ["f/~1/buy", "f/~2/buy"]
    assert shop.done("run", "show", "f/~2/buy", "--json").json["run"]["parent_id"] == "f"
    assert re.search(r"^  parent +f$", shop.done("run", "show", "f/~2/buy").out, re.MULTILINE)
    assert re.search(r"^f/~2/buy  buy +completed", shop.done("run", "show", "f").out, re.MULTILINE)


def test_show_cuts_what_is_long_and_says_so(shop):
    """A journal of thousands of entries would run over the screen, or end without a word."""
    shop.play(lambda app: _result(app, "chatty", 150, "a"))
    answer = shop.done("run", "show", "a")
    assert "Journal (after 51 earlier entries)" in answer.out
    assert "--full" in answer.err
    assert max(map(len, answer.out.splitlines())) < 250
    assert answer.out.count("…") == 99
    told = shop.done("run", "show", "a", "--json").json
    assert (told["earlier_entries"], len(told["journal"]), told["journal"][-1]["seq"]) == (51, 100, 151)
    full = shop.done("run", "show", "a", "--full")
    assert full.out.count("x" * 1000) == 150
    assert full.err == ""
    assert len(shop.done("run", "show", "a", "--full", "--json").json["journal"]) == 151


def test_show_why_a_run_diverged(terminal, monkeypatch):
    """An operator would not see what the code asks for instead of what is recorded."""
    monkeypatch.setenv("PERDURE_URL", terminal.url)
    old, new = App(terminal.url), App(terminal.url)

    @old.workflow(name="changed")
    async def before(ctx: Context) -> str:
        await ctx.step("pack", lambda: 1)
        return await ctx.receive("go", str)

    @new.workflow(name="changed")
    async def after(ctx: Context) -> str:
        await ctx.step("weigh", lambda: 1)
        return await ctx.receive("go", str)

    terminal.play(lambda app: _until(app, "receive_started"), old)
    terminal.play(lambda app: _until(app, "paused"), new)
    out = terminal.done("run", "show", "a").out
    assert "Paused: divergence" in out
    assert re.search(r"^ +- .*pack", out, re.MULTILINE)
    assert re.search(r"^ +\+ .*weigh", out, re.MULTILINE)
    assert "divergence" in terminal.done("run", "list").out
    reason = terminal.done("run", "show", "a", "--json").json["run"]["reason"]
    assert (reason["code"], reason["seq"]) == ("divergence", 1)
    assert terminal.done("run", "resume", "a", "--skip", "--json").json["run"]["status"] == "queued"


async def _until(app, kind):
    handle = await app.start("changed", id="a") if kind == "receive_started" else app.handle("a")
    if kind == "paused":
        await handle.signal("go", "now")
    async for event in handle.events():
        if event.kind == kind:
            break


@pytest.mark.parametrize("words", [("show",), ("tail",), ("export",)])
def test_a_run_that_is_not_there(shop, words):
    """A misspelt id would look like an empty run."""
    answer = shop.run("run", *words, "nobody", "--json")
    assert (answer.code, answer.out, answer.problem["code"]) == (4, "", "run_not_found")


def test_tail_from_a_place(shop):
    """Who reads on after a break would get entries twice, or lose some."""
    shop.bought("a")
    lines = [json.loads(line) for line in shop.done("run", "tail", "a", "--json").out.splitlines()]
    assert [(line["seq"], line["kind"]) for line in lines] == [(1, "step_completed"), (2, "completed")]
    assert set(lines[0]) == {"seq", "kind", "key", "at", "data", "started_at", "attempt"}
    rest = shop.done("run", "tail", "a", "--after", 1, "--json").out
    assert [json.loads(line)["seq"] for line in rest.splitlines()] == [2]
    people = shop.done("run", "tail", "a").out.splitlines()
    assert re.match(r"[\d-]+ [\d:]+\.\d{3} +1  step_completed +price  3$", people[0])


def test_what_went_wrong_is_told_in_words(shop):
    """Who looks why a run is late, or failed, would read JSON with microseconds and half a traceback."""
    app = App("sqlite://")

    @app.workflow
    async def pay(ctx: Context) -> None:
        await ctx.step("book", lambda: 1, compensate=lambda: None)
        await ctx.step("charge", _refuse, retry=Retry(max_attempts=2, delay=0))

    with pytest.raises(RunFailed):
        shop.play(lambda app: _result(app, "pay", "a"), app)
    out = shop.done("run", "show", "a").out
    tried, undone = (next(line for line in out.splitlines() if f" {kind} " in line) for kind in _KINDS)
    assert re.search(r"  next attempt [\d-]+ [\d:]+ after ConnectionError: no answer$", tried)
    assert undone.endswith("  undoes book after ConnectionError: no answer")
    whole = shop.done("run", "tail", "a", "--full").out
    assert re.search(r"^ +next attempt [\d-]+ [\d:]+\n +ConnectionError: no answer\n +Traceback", whole, re.MULTILINE)
    lines = [json.loads(line) for line in shop.done("run", "tail", "a", "--json").out.splitlines()]
    (failed,) = [line["data"] for line in lines if line["kind"] == "attempt_failed"]
    assert datetime.fromisoformat(failed["next_at"]).tzinfo


_KINDS = ("attempt_failed", "compensating")


def _refuse():
    problem = "no answer"
    raise ConnectionError(problem)


def test_tail_stops_when_asked_to(shop):
    """A script that wants to know what there is would wait for ever."""
    shop.parked("a")
    out = shop.done("run", "tail", "a", "--no-follow", "--json").out
    assert [json.loads(line)["kind"] for line in out.splitlines()] == ["receive_started"]


def test_export_can_be_replayed(shop):
    """The testing kit could not read what the command line exports."""
    shop.bought("a")
    exported = shop.done("run", "export", "a").json
    assert exported == shop.play(lambda app: app.client.export("a"))
    assert exported["perdure"] == 1


def test_only_exports_have_numbers_that_are_no_json(shop):
    """A program could not read what is printed for it, or a replay would go on with other values."""
    app = App("sqlite://")

    @app.workflow
    async def scores(ctx: Context) -> float:
        return await ctx.step("measure", lambda: float("nan"), returns=float)

    shop.play(lambda app: _result(app, "scores", "a"), app)
    tailed = shop.done("run", "tail", "a", "--json").out.splitlines()
    assert json.loads(tailed[0], parse_constant=pytest.fail)["data"] is None
    assert shop.done("run", "export", "a").out.count("NaN") == 2


def test_the_app_of_the_kit_is_left_alone():
    """Commands with --app would change the app's own workflows, and a later command would start something else."""
    assert kit.app.registry.get("buy").fn is kit.buy.fn
