"""`perdure queue`: what operators see of queues, and do to them."""

import pytest


def test_a_queue_is_made_changed_and_shown(shop):
    """An operator could not change a limit without a deploy, or would lose the limits that he did not name."""
    shop.done("queue", "set", "mail", "--concurrency", 10, "--per-key", 2, "--rate", "100/1m")
    shown = shop.done("queue", "set", "mail", "--per-key", "none", "--rate", "5/10s:sliding:per-key", "--json").json
    assert (shown["concurrency"], shown["per_key"], shown["state"]) == (10, None, "open")
    assert shown["rate"] == [{"limit": 5, "per": 10.0, "sliding": True, "per_key": True}]
    shop.done("queue", "set", "mail", "--while-waiting", "free", "--ageing", "5m", "--rate", "none")
    text = shop.done("queue", "show", "mail").out
    assert "10 at a time" in text
    assert "one level is worth 5m" in text
    assert "free their slots" in text
    assert "mail" in shop.done("queue", "list").out
    assert shop.done("queue", "list", "--json").json["queues"][0]["name"] == "mail"


@pytest.mark.parametrize(
    "words",
    [("--concurrency", "0"), ("--concurrency", "many"), ("--rate", "5"), ("--rate", "5/1m:soft"), ("--rate", "x/1m"),
     ("--while-waiting", "sleep")],
)  # fmt: skip
def test_limits_that_cannot_be_are_refused(shop, words):
    """A slip of the pen would stop a queue."""
    answer = shop.run("queue", "set", "mail", *words, "--json")
    assert (answer.code, answer.problem["code"]) == (2, "invalid_option")
    assert shop.done("queue", "list").err.startswith("No queues.")


def test_a_run_in_line_says_what_it_waits_for(shop):
    """Nobody could find out why a run does not begin."""
    shop.done("queue", "set", "mail", "--concurrency", 1)
    for run_id in ("a", "b"):
        shop.done(
            "run", "start", "buy", "tea", "--id", run_id, "--queue", "mail", "--key", "k", "--app", "clikit.shop:app"
        )
    assert "for queue mail: no worker is alive" in shop.done("run", "show", "a").out
    shown = shop.done("run", "show", "b", "--json").json["run"]
    assert shown["why"].endswith("1 before it in its line")
    assert (shown["queue"], shown["queue_key"], shown["in_line"]) == ("mail", "k", True)
    assert "no worker is alive" in shop.done("run", "list").out
    (queue,) = shop.done("queue", "list", "--json").json["queues"]
    assert (queue["in_line"], queue["holding"]) == (2, 0)


def test_pause_resume_drain_and_remove(shop):
    """A queue could only be stopped by stopping its workers."""
    shop.done("queue", "set", "mail")
    assert shop.done("queue", "pause", "mail", "--json").json["state"] == "paused"
    assert shop.done("queue", "drain", "mail", "--json").json["state"] == "draining"
    answer = shop.run("run", "start", "buy", "tea", "--queue", "mail", "--app", "clikit.shop:app", "--json")
    assert answer.problem["code"] == "queue_draining"
    assert shop.done("queue", "resume", "mail", "--json").json["state"] == "open"
    shop.done("run", "start", "buy", "tea", "--queue", "mail", "--app", "clikit.shop:app")
    assert shop.run("queue", "remove", "mail", "--json").problem["code"] == "queue_in_use"
    shop.done("queue", "set", "other")
    assert "removed" in shop.done("queue", "remove", "other").out
    for words in (("pause",), ("remove",), ("show",), ("dead",), ("retry",)):
        assert shop.run("queue", *words, "nowhere", "--json").problem["code"] == "unknown_queue"


def test_failed_runs_are_listed_with_their_errors_and_put_in_line_again(shop):
    """After an outage somebody would have to write a script."""
    shop.done("queue", "set", "mail")

    async def main(app):
        for n in range(3):
            run = await app.start("broke", id=f"run-{n}", queue="mail")
            async for _ in run.events():
                pass

    shop.play(main)
    assert "the till is empty" in shop.done("queue", "dead", "mail").out
    page = shop.done("queue", "dead", "mail", "--limit", 2, "--json").json
    assert ([run["id"] for run in page["runs"]], page["runs"][0]["error"]["message"]) == (
        ["run-0", "run-1"], "the till is empty",
    )  # fmt: skip
    rest = shop.done("queue", "dead", "mail", "--after", page["next"], "--json").json
    assert ([run["id"] for run in rest["runs"]], rest["next"]) == (["run-2"], None)
    assert shop.done("queue", "retry", "mail", "--most", 2, "--json").json["retried"] == 2
    assert shop.done("queue", "retry", "mail", "--anew").out.startswith("1 run(s)")
    assert shop.done("queue", "list", "--json").json["queues"][0]["dead"] == 0
