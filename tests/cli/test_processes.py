"""Commands as processes of their own: workers that come, drain and go; a tail that follows."""

import json
import os
import signal

import pytest
from postgreskit.server import server

APP = ("--app", "clikit.shop:app")


@pytest.fixture
def pipe(shop):
    """A pipe that a step reads from, and so waits at, until the test writes to it."""
    path = shop.folder / "pipe"
    os.mkfifo(path)
    return path


def test_a_worker_drives_what_others_start(shop):
    """`perdure worker` and `perdure run start --wait` would not find each other."""
    worker = shop.start("worker", "clikit.shop:app", "--url", shop.url, "--json", "--id", "w", "--concurrency", 3)
    ready = worker.line()
    assert (ready["event"], ready["worker_id"], ready["url"]) == ("ready", "w", shop.url)
    assert "buy" in ready["workflows"]
    assert (
        shop.done("run", "start", "buy", "-i", '{"item": "tea"}', "--wait").out
        == '{\n  "item": "tea",\n  "total": 3\n}\n'
    )
    (listed,) = shop.done("workers", "--json").json["workers"]
    assert (listed["id"], listed["state"], listed["pid"]) == ("w", "alive", ready["pid"])
    second = shop.start("worker", "clikit.shop:app", "--url", shop.url, "--json", "--id", "w")
    assert second.wait() == 2
    assert json.loads(second.errors)["code"] == "duplicate_name"
    worker.send(signal.SIGTERM)
    assert [line["event"] for line in worker.lines()] == ["draining", "stopped"]
    assert worker.wait() == 0
    assert shop.done("workers", "--all", "--json").json["workers"][0]["state"] == "left"


def test_a_worker_drains(shop, pipe):
    """A step that is being run when a deployment stops the worker would be lost and done twice."""
    worker = shop.worker(SHOP_PIPE=str(pipe))
    shop.done("run", "start", *APP, "threaded", "--id", "a")
    logged = worker.logged("about to block")
    assert (logged["run_id"], logged["workflow"], logged["level"]) == ("a", "threaded", "info")
    with pipe.open("w") as end:
        worker.send(signal.SIGINT)
        draining = worker.line()
        assert (draining["event"], draining["signal"], draining["driven"]) == ("draining", "SIGINT", 1)
        end.write("done")
    assert [line["event"] for line in worker.lines()] == ["stopped"]
    assert worker.wait() == 0
    told = shop.done("run", "show", "a", "--json").json
    assert [(entry["kind"], entry["data"]) for entry in told["journal"]][:1] == [("step_completed", "done")]


def test_a_second_signal_stops_a_worker_whose_loop_is_blocked(shop, pipe):
    """A worker that hangs could only be killed, and nobody would know what became of its runs."""
    worker = shop.worker(SHOP_PIPE=str(pipe))
    shop.done("run", "start", *APP, "blocked", "--id", "a")
    worker.logged("about to block")
    with pipe.open("w"):  # the step, and with it the loop, waits for what nobody writes
        worker.send(signal.SIGTERM)
        assert worker.insist(signal.SIGINT) == 9
    assert "Stopped at once" in worker.errors
    assert shop.done("run", "show", "a", "--json").json["run"]["status"] == "running"


def test_a_thread_that_does_not_end_keeps_no_worker(shop, pipe):
    """A deployment would hang at a step that is a plain function and never returns."""
    worker = shop.worker("--drain", "0.1", SHOP_PIPE=str(pipe))
    shop.done("run", "start", *APP, "threaded", "--id", "a")
    worker.logged("about to block")
    with pipe.open("w"):
        worker.send(signal.SIGTERM)
        assert [line["event"] for line in worker.lines()] == ["draining", "stopped"]
        assert worker.wait() == 0
    assert shop.done("run", "show", "a", "--json").json["run"]["status"] == "queued"


def test_a_chosen_id_is_free_again_after_a_crash(shop, pipe):
    """A worker that is restarted under its name would be refused, and its runs would lie there."""
    first = shop.worker("--id", "w", SHOP_PIPE=str(pipe))
    shop.done("run", "start", *APP, "threaded", "--id", "a")
    first.logged("about to block")
    first.kill()
    (listed,) = shop.done("workers", "--json").json["workers"]
    assert (listed["state"], listed["owned"]) == ("alive", 1)  # nobody has noticed yet
    second = shop.worker("--id", "w", SHOP_PIPE=str(pipe))
    pipe.write_text("again")
    assert shop.done("run", "start", *APP, "threaded", "--id", "a", "--wait").out == '"again"\n'
    states = {worker["id"]: worker["state"] for worker in shop.done("workers", "--all", "--json").json["workers"]}
    assert states["w"] == "alive"
    assert sorted(states.values()) == ["alive", "dead"]
    second.send(signal.SIGTERM)
    assert second.wait() == 0


def test_a_worker_migrates_as_its_app_does(terminal):
    """A worker would not start with a new database, or change a schema that an operator wanted to migrate himself."""
    worker = terminal.start("worker", "clikit.shop:app", "--url", "sqlite:///new.db")
    ready = worker.text()
    assert ready.startswith("Worker ")
    assert "is ready: basket, blocked, " in ready
    assert " on sqlite:///new.db. " in ready
    worker.send(signal.SIGTERM)
    who = " ".join(ready.split()[:2])  # several processes write to one terminal
    assert worker.text() == f"{who} is draining: it drives 0 runs.\n"
    assert worker.text() == f"{who} has stopped. All runs are stored as they stand.\n"
    assert worker.wait() == 0
    (terminal.folder / "careful.py").write_text("from perdure import App\n\napp = App(migrate=False)\n")
    terminal.damage("create table mine (x)")
    refused = terminal.start("worker", "careful:app", "--json", "--url", terminal.url)
    assert refused.wait() == 7
    assert json.loads(refused.errors)["code"] == "schema_missing"


def test_a_worker_makes_a_schema_on_postgres(terminal):
    """On an empty server two workers that start together would wait for an operator, or get in each other's way."""
    url = server().url()
    refused = terminal.run("run", "list", "--json", "--url", url)
    assert refused.problem["code"] == "schema_missing"
    workers = [terminal.start("worker", "clikit.shop:app", "--url", url) for _ in range(2)]
    assert [worker.text().startswith("Worker ") for worker in workers] == [True, True]
    assert len(terminal.done("workers", "--json", "--url", url).json["workers"]) == 2
    for worker in workers:
        worker.send(signal.SIGTERM)
    assert [worker.wait() for worker in workers] == [0, 0]


def test_tail_follows_until_the_end(shop):
    """What happens after `perdure run tail` was started would not be seen."""
    shop.parked("a")
    tail = shop.start("run", "tail", "a", "--json", "--url", shop.url)
    assert tail.line()["kind"] == "receive_started"
    worker = shop.worker()
    shop.done("run", "signal", "a", "approval", "yes")
    assert [line["kind"] for line in tail.lines()] == ["signal_received", "emitted", "completed"]
    assert tail.wait() == 0
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0


def test_tail_can_be_interrupted(shop):
    """Ctrl-C would print a traceback."""
    shop.parked("a")
    tail = shop.start("run", "tail", "a", "--json", "--url", shop.url)
    tail.line()
    tail.send(signal.SIGINT)
    assert tail.wait() == 130
    assert tail.errors == ""


def test_nobody_reads_on(shop):
    """`perdure run tail … | head` would print a traceback."""

    async def main(app):
        await (await app.start("chatty", 300, id="a")).result()

    shop.play(main)
    tail = shop.start("run", "tail", "a", "--json", "--url", shop.url)
    tail.line()
    tail.close_output()
    assert tail.wait() == 141
    assert tail.errors == ""
