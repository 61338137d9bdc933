"""Versions of a workflow on the command line."""

import textwrap

import pytest

CODE = """
from perdure import App, Context

app = App("sqlite:///shop.db")


@app.workflow(name="pay", version="9")
async def nine(ctx: Context, n: int) -> str:
    await ctx.receive("go")
    return f"nine {n}"


@app.workflow(name="pay", version="10")
async def ten(ctx: Context, n: int) -> str:
    await ctx.receive("go")
    return f"ten {n}"
"""
APP = ("--app", "pays:app")


@pytest.fixture
def till(shop, monkeypatch):
    """A shop with an app that has two versions of a workflow."""
    (shop.folder / "pays.py").write_text(textwrap.dedent(CODE))
    monkeypatch.syspath_prepend(str(shop.folder))
    return shop


def test_runs_are_started_listed_and_moved_by_version(till):
    """An operator could neither choose a version, nor find the runs of one, nor help those that are stuck."""
    for words in (("a",), ("b", "--version", "9")):
        till.done("run", "start", *APP, "pay", 1, "--id", *words)
    runs = till.done("run", "list", "--workflow", "pay", "--json").json["runs"]
    assert {run["id"]: (run["workflow"], run["version"]) for run in runs} == {"a": ("pay", "10"), "b": ("pay", "9")}
    (only,) = till.done("run", "list", "--workflow", "pay", "--version", "9", "--json").json["runs"]
    assert (only["id"], only["stuck"]) == ("b", "no worker is alive")
    shown = till.done("run", "show", "b").out
    assert "version     9\n" in shown
    assert "stuck       no worker is alive\n" in shown
    assert "pay 9" in till.done("run", "list").out

    refused = till.run("run", "move", "b", "--to", "11", *APP, "--json")
    assert (refused.code, refused.problem["code"]) == (2, "unknown_workflow")
    assert till.done("run", "move", "a", "b", "--to", "9", *APP).out.count("Moved to version '9'.") == 2
    assert {run["version"] for run in till.done("run", "list", "--json").json["runs"]} == {"9"}
    assert [entry["kind"] for entry in till.done("run", "show", "a", "--json").json["journal"]] == ["moved"]


def test_without_the_app_the_newest_version_that_workers_have_is_started(till):
    """A start from the command line would need the code, or begin with a version that no worker has."""
    worker = till.start("worker", "pays:app", "--url", till.url, "--json")
    assert worker.line()["workflows"] == ["pay@10", "pay@9"]
    till.done("run", "start", "pay", "-i", '{"n": 1}', "--id", "a")
    till.done("run", "start", "pay", "-i", '{"n": 2}', "--id", "b", "--version", "9")
    for run, expected in (("a", "ten 1"), ("b", "nine 2")):
        till.done("run", "signal", run, "go")
        assert expected in till.done("run", "start", *APP, "pay", expected[-1], "--id", run, "--wait").out
    answer = till.run("run", "start", "pay", "-i", "{}", "--version", "8", "--json")
    assert "'pay@8'" in answer.problem["message"]
    found = till.done("run", "show", "a", "--json").json["run"]
    assert (found["version"], found["stuck"]) == ("10", "")
