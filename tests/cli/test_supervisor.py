"""Several worker processes under one: started, named, started again, stopped together."""

import asyncio
import json
import logging
import os
import signal
import sys

import pytest

from perdure.cli import supervise
from perdure.cli.exits import KEEP_DYING
from perdure.cli.supervise import Supervisor, named


def keep(monkeypatch, *programs, seconds=0.0):
    """Supervise programs, one process each; the exit code and the events."""
    monkeypatch.setattr(supervise, "FIRST_PAUSE_S", seconds)
    events = []

    def say(event, text, **fields):
        events.append((event, fields))

    def command(number):
        return [sys.executable, "-c", programs[number - 1]]

    return asyncio.run(Supervisor(command, len(programs), say).run()), events


def test_a_process_that_dies_at_once_again_and_again_is_given_up(monkeypatch, caplog):
    """A worker that cannot start would be started for ever, and a deployment would count as done."""
    caplog.set_level(logging.WARNING)
    stays = "import sys; sys.stdin.read()"
    code, events = keep(monkeypatch, "import os; os.kill(os.getpid(), 9)", stays)
    assert code == KEEP_DYING
    assert [fields["process"] for event, fields in events if fields["process"] == 1] == [1] * supervise.MOST_AT_ONCE
    assert "signal SIGKILL; started again" in caplog.text
    assert "all are stopped" in caplog.text


def test_a_mistake_in_the_command_line_is_not_tried_again(monkeypatch):
    """A misspelt app would be looked for five times, and end with another exit code than without --processes."""
    code, events = keep(monkeypatch, "raise SystemExit(2)")
    assert (code, len(events)) == (2, 1)


def test_pauses_grow_from_death_to_death(monkeypatch, caplog):
    """A worker whose database is away would load the machine by being started without pause."""
    caplog.set_level(logging.WARNING)
    keep(monkeypatch, "raise SystemExit(7)", seconds=0.01)
    pauses = [line.rpartition(" in ")[2] for line in caplog.text.splitlines() if "started again" in line]
    assert pauses == ["0.01 s", "0.02 s", "0.04 s", "0.08 s"]


def test_a_process_that_cannot_be_started_is_tried_again(monkeypatch, caplog):
    """A machine that is short of memory for a moment would be left with fewer workers, and nobody would be told."""
    caplog.set_level(logging.WARNING)
    start, refusals = asyncio.create_subprocess_exec, [BlockingIOError(11, "no more processes")]

    async def refused_once(*words, **options):
        if refusals:
            raise refusals.pop()
        return await start(*words, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", refused_once)
    code, events = keep(monkeypatch, "raise SystemExit(2)")
    assert (code, len(events)) == (2, 1)
    assert "process 1 could not be started ([Errno 11] no more processes); started again in 0 s" in caplog.text


def test_ends_in_words():
    """Somebody who reads the log would have to know the numbers of signals."""
    assert (named(-9), named(3), named(-40)) == ("signal SIGKILL", "exit code 3", "signal 40")


def test_a_supervisor_that_cannot_go_on_says_so(monkeypatch):
    """Say its output is gone: a process that dies then would not be started again, and nobody would know."""

    def say(*_, **__):
        raise BrokenPipeError

    def command(_number):
        return [sys.executable, "-c", "import sys; sys.stdin.read()"]

    async def main():
        async with asyncio.timeout(30):
            await Supervisor(command, 2, say).run()

    with pytest.raises(BrokenPipeError):
        asyncio.run(main())


def processes(shop, *words, **env):
    """A supervisor of two workers of the shop that are ready; and their process ids by number."""
    started = shop.start(
        "worker", "clikit.shop:app", "--url", shop.url, "--json", "--log-format", "json", "--processes", 2, *words,
        **env,
    )  # fmt: skip
    pids, ready = {}, 0
    while len(pids) < 2 or ready < 2:
        line = started.line()
        ready += line["event"] == "ready"
        if line["event"] == "started":
            pids[line["process"]] = line["pid"]
    return started, pids


def gone(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_a_worker_that_is_killed_is_replaced_and_its_run_goes_on(shop, tmp_path):
    """A crash of one process would leave the machine with fewer workers, or its run undone."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    supervisor, pids = processes(shop, "--id", "w", "--concurrency", 1, SHOP_PIPE=str(pipe))
    shop.done("run", "start", "--app", "clikit.shop:app", "threaded", "--id", "a")
    logged = supervisor.logged("about to block")
    victim = int(logged["worker_process"])
    os.kill(pids[victim], signal.SIGKILL)
    dead = supervisor.logged(f"process {victim} ({pids[victim]}) ended by signal SIGKILL; started again in 0.5 s")
    assert dead["level"] == "warning"
    again = supervisor.line()
    assert (again["event"], again["process"]) == ("started", victim)
    assert supervisor.line()["worker_id"] == f"w-{victim}"
    pipe.write_text("done")
    assert shop.done("run", "start", "--app", "clikit.shop:app", "threaded", "--id", "a", "--wait").out == '"done"\n'
    supervisor.send(signal.SIGTERM)
    events = [line["event"] for line in supervisor.lines()]
    assert sorted(events) == ["draining"] * 3 + ["stopped"] * 2
    assert supervisor.wait() == 0
    states = {worker["id"]: worker["state"] for worker in shop.done("workers", "--all", "--json").json["workers"]}
    assert (states["w-1"], states["w-2"]) == ("left", "left")


def test_a_second_signal_ends_all_at_once(shop, tmp_path):
    """A worker that hangs would keep its supervisor, and with it the deployment, from ending."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    supervisor, pids = processes(shop, SHOP_PIPE=str(pipe))
    shop.done("run", "start", "--app", "clikit.shop:app", "blocked", "--id", "a")
    supervisor.logged("about to block")
    supervisor.send(signal.SIGINT)
    while supervisor.line().get("signal") != "SIGINT":
        pass
    assert supervisor.insist(signal.SIGINT) == 9
    assert shop.done("run", "show", "a", "--json").json["run"]["status"] == "running"
    os.close(os.open(pipe, os.O_RDWR))
    for pid in pids.values():
        while not gone(pid):
            os.sched_yield()


def test_workers_whose_supervisor_was_killed_drain(shop):
    """They would work on, unknown to whoever starts the next ones, with code that was to be replaced."""
    supervisor, pids = processes(shop)
    supervisor.kill()
    assert sorted(line["event"] for line in supervisor.lines()) == ["draining", "draining", "stopped", "stopped"]
    for pid in pids.values():
        while not gone(pid):
            os.sched_yield()


def test_a_database_in_memory_cannot_be_shared(shop):
    """Each process would have a database of its own, and nobody would find a run in it."""
    refused = shop.start("worker", "clikit.shop:app", "--url", "sqlite://", "--processes", 2)
    assert refused.wait() == 2
    assert "in memory" in refused.errors


@pytest.mark.parametrize("processes", ["0", "-1", "x"])
def test_a_number_of_processes_that_is_none(shop, processes):
    """A supervisor of no process would wait for ever."""
    answer = shop.run("worker", "clikit.shop:app", "--processes", processes, "--json")
    assert answer.code == 2
    assert json.loads(answer.err)["exit_code"] == 2


def test_no_password_is_in_a_command_line(shop, monkeypatch):
    """Everybody on the machine can list the processes, and would read the database's password."""
    seen = []

    async def once(_out, command, _count):
        seen.extend(command(1))
        return 0

    monkeypatch.setattr("perdure.cli.worker._supervise", once)
    monkeypatch.setattr("perdure.cli.worker.configure", lambda *_, **__: None)
    url = "postgresql://me:secret@nowhere/db"
    shop.done("worker", "clikit.shop:app", "--processes", 2, "--url", url, "--id", "w", "--lease", "2s")
    assert "secret" not in " ".join(seen)
    assert os.environ["PERDURE_URL"] == url
    assert seen[seen.index("--id") + 1] == "w-1"
    assert seen[seen.index("--lease") + 1] == "2s"
