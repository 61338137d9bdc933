"""`perdure run cancel`, `pause`, `resume`, `fork`, `rerun` and `signal`."""

import json

import pytest


def status(answer):
    return answer.json["run"]["status"]


def journal(shop, run_id):
    return shop.done("run", "show", run_id, "--json").json["journal"]


def drive(shop, run_id):
    """Let a worker go on with a run until it has ended."""

    async def main(app):
        return await app.handle(run_id).result()

    return shop.play(main)


def test_cancel(shop):
    """A run could not be ended from outside, or would not say why it was."""
    shop.parked("a")
    assert shop.done("run", "cancel", "a", "--reason", "sold out").out == (
        "Cancellation requested. Run a is cancelling.\n"
    )
    shop.play(_end)
    assert "sold out" in json.dumps(journal(shop, "a"))
    again = shop.run("run", "cancel", "a", "--json")
    assert (again.code, again.problem["code"]) == (3, "run_finished")


async def _end(app):
    async for _ in app.handle("a").events():
        pass


def test_pause_and_resume(shop):
    """A run could not be put aside, or not be taken up again."""
    shop.parked("a")
    assert status(shop.done("run", "pause", "a", "--reason", "look at it", "--json")) == "paused"
    assert "operator: look at it" in shop.done("run", "list").out
    assert status(shop.done("run", "resume", "a", "--json")) == "queued"
    answer = shop.run("run", "resume", "a", "--json")
    assert (answer.code, answer.problem["code"]) == (3, "illegal_move")
    shop.done("run", "signal", "a", "approval", "yes")
    assert drive(shop, "a") == "yes"


def test_resume_skips_only_where_a_run_diverged(shop):
    """--skip would be taken for something that it is not."""
    shop.parked("a")
    shop.done("run", "pause", "a")
    assert shop.run("run", "resume", "a", "--skip").code == 3
    assert shop.done("run", "show", "a", "--json").json["run"]["status"] == "paused"


@pytest.mark.parametrize(
    ("words", "kept"),
    [((), ["price"]), (("--before", "price"), []), (("--before", ""), [])],
    ids=["all", "before a step", "before everything"],
)
def test_fork(shop, words, kept):
    """A fork would keep more or less of the history than was asked for."""
    shop.bought("a")
    assert shop.done("run", "fork", "a", "--id", "b", *words).out == "b\n"
    assert [entry["key"] for entry in journal(shop, "b") if entry["kind"] == "step_completed"] == kept
    assert shop.done("run", "show", "b", "--json").json["run"]["forked_from"].startswith("a@")
    assert drive(shop, "b") == {"item": "tea", "total": 3}


def test_fork_makes_up_an_id(shop):
    """`id=$(perdure run fork …)` would not get the fork's id."""
    shop.bought("a")
    made = shop.done("run", "fork", "a", "--json").json["run"]["id"]
    assert made != "a"
    answer = shop.run("run", "fork", "a", "--before", "no such step", "--json")
    assert (answer.code, answer.problem["code"], answer.problem["key"]) == (4, "step_not_found", "no such step")


@pytest.mark.parametrize(("words", "bodies"), [((), 2), (("--before", "price"), 2), (("--keep",), 1)])
def test_rerun(shop, words, bodies):
    """A rerun would do again what was to be kept, or keep what was to be done again."""
    shop.bought("a")
    told = shop.done("run", "rerun", "a", *words, "--json").json["run"]
    assert (told["status"], told["generation"]) == ("queued", 2)
    assert drive(shop, "a") == {"item": "tea", "total": 3}
    assert len([entry for entry in journal(shop, "a") if entry["kind"] == "step_completed"]) == bodies
    assert "generation  2" in shop.done("run", "show", "a").out


def test_rerun_refuses_what_contradicts_itself(shop):
    """One of two options would be ignored silently."""
    shop.bought("a")
    assert shop.run("run", "rerun", "a", "--keep", "--before", "price").code == 2
    assert shop.done("run", "show", "a", "--json").json["run"]["generation"] == 1


@pytest.mark.parametrize(
    ("words", "stdin", "received"),
    [(("yes",), "", "yes"), (('"12"',), "", "12"), (("-",), '"from a pipe"', "from a pipe")],
)
def test_signal(shop, words, stdin, received):
    """A run would receive something else than was sent."""
    shop.parked("a")
    assert (
        shop.done("run", "signal", "a", "approval", *words, stdin=stdin).out
        == f"Sent approval {json.dumps(received)}.\n"
    )
    assert drive(shop, "a") == received


def test_signals_with_a_key_count_once(shop):
    """A script that is run twice would approve twice."""
    shop.parked("a")
    first = shop.done("run", "signal", "a", "approval", "yes", "--key", "k", "--json").json
    assert first == {"run_id": "a", "name": "approval", "accepted": True}
    assert shop.done("run", "signal", "a", "approval", "no", "--key", "k", "--json").json["accepted"] is False
    assert "Not sent" in shop.done("run", "signal", "a", "approval", "no", "--key", "k").out
    assert drive(shop, "a") == "yes"


def test_a_signal_without_data(shop):
    """The data would have to be made up where there is none."""
    shop.parked("a")
    shop.done("run", "signal", "a", "started")
    answer = shop.run("run", "signal", "nobody", "started", "--json")
    assert (answer.code, answer.problem["code"]) == (4, "run_not_found")
