"""What people get wrong in a call is told in that call, with what to do, and not later or never."""

import re
from datetime import datetime
from functools import partial
from pathlib import Path

import pytest

from perdure import App, Command, Context, Flow, Observer, Pipeline, RunFilter, Webhook
from perdure.errors import InvalidName, InvalidOption
from perdure.turn import ChatOptions


async def double(ctx: Context, number: int) -> int:
    return 2 * number


async def gather(ctx: Context, items: list[int]) -> int:
    return len(items)


async def answer(command: Command) -> int:
    return 42


def plain(command):
    return 42


async def rows(transaction):
    return None


def behind(transaction):
    return rows(transaction)


async def leaf(turn):
    yield "a"


STARTS = {
    "input by name": (lambda app: app.start("double", number=1), r"^number: a start has no such option.*positional"),
    "an option that is none": (lambda app: app.start("double", 1, tag="x"), r"^tag: a start has no such option"),
    "no time at all": (lambda app: app.start("double", 1, timeout=0), r"^timeout: it must be more than 0"),
    "dedupe": (lambda app: app.start("double", 1, dedupe=3), r"^dedupe: 3 is no Dedupe\(…\)"),
    "debounce": (lambda app: app.start("double", 1, debounce=5), r"^debounce: 5 is no Debounce\(…\)"),
    "size": (lambda app: app.batch("gather", 1, size="2", wait=1), r"^size: '2' is not a whole number"),
    "half a size": (lambda app: app.batch("gather", 1, size=2.5, wait=1), r"^size: 2.5 is not a whole number"),
    "one end by its letters": (
        lambda app: app.client.prune(older_than=1, statuses="done"),
        r"^statuses: done cannot be pruned; name one",
    ),
    "too many at once": (lambda app: app.client.dead_letters("q", limit=9999), r"^limit: 9999 is not a whole number"),
    "less than one": (lambda app: app.client.retry_dead_letters("q", most=0), r"^most: 0 is not a whole number"),
    "no coroutine function": (lambda app: app.command("k", plain), r"^fn: .*plain.* is not a coroutine function"),
    "no function": (lambda app: app.command("k", "answer"), r"^fn: 'answer' is not a coroutine function"),
    "stale_after": (lambda app: app.command("k", answer, stale_after=-1), r"^stale_after: -1 is not between"),
}


@pytest.mark.parametrize("case", STARTS)
def test_a_call_that_cannot_be_meant_is_refused_by_the_name_of_what_is_wrong(desk, case):
    """A TypeError or AttributeError of perdure's own would leave a user to read perdure's code."""
    call, told = STARTS[case]

    async def main(app):
        with pytest.raises(InvalidOption, match=told):
            await call(app)
        assert await app.client.counts() == {}

    desk.play(main, double, gather)


@pytest.mark.parametrize("tags", ["abc", 3])
def test_tags_are_several(desk, tags):
    """A run would have the letters of its tag as tags, or the mistake an error without a name."""

    async def main(app):
        with pytest.raises(InvalidName, match=re.escape(f"write ['{tags}']")):
            await app.start("double", 1, tags=tags)

    desk.play(main, double)


@pytest.mark.parametrize("key", [3, "", "k" * 201])
def test_a_signals_key_is_an_id(desk, key):
    """SQLite would keep what Postgres cannot: an app would fail where it is deployed only."""

    async def main(app):
        run = await app.start("double", 1, id="r", delay=60)
        with pytest.raises(InvalidName, match="signal key"):
            await run.signal("go", key=key)

    desk.play(main, double)


def test_a_place_in_a_journal_is_a_number(desk):
    """A reader that passes a header on as it is would silently get nothing for ever."""

    async def main(app):
        run = await app.start("double", 1)
        await run.result()
        with pytest.raises(InvalidOption, match="after: '1' is not a whole number"):
            await anext(run.events(after="1"))

    desk.play(main, double)
    with pytest.raises(InvalidOption, match="after: '1' is not a whole number"):
        ChatOptions(after="1")


@pytest.mark.parametrize("fn", [rows, behind, "insert"])
def test_rows_of_ones_own_are_written_by_a_plain_function(desk, fn):
    """A coroutine would never be awaited, and the rows not be there though the command succeeded."""

    async def handler(command: Command) -> int:
        command.transaction(fn)
        return 1

    async def main(app):
        with pytest.raises(InvalidOption, match=r"transaction: .* is not a plain function"):
            await app.command("k", handler)

    desk.play(main)


DECLARATIONS = {
    "step": (lambda app: app.step(retries=3), r"step options: there is no retries; there are at_most_once, .*retry"),
    "workflow": (lambda app: app.workflow(nam="x"), r"workflow options: there is no nam; there are .*name"),
    "flow": (lambda app: app.flow(Flow("f"), name="g"), r"workflow options: there is no name; there are"),
    "pipeline": (lambda app: app.pipeline(Pipeline("p"), name="g"), r"workflow options: there is no name; there are"),
    "queue": (lambda app: app.queue("q", max=3), r"queue: there is no max; there are .*concurrency"),
    "sink": (lambda app: app.sink("s", event=["completed"]), r"sink options: there is no event; there are .*events"),
    "turn": (lambda app: app.turn(foo=1)(leaf), r"turn options: there is no foo; there are .*continues"),
    "a sink's retry": (lambda app: app.sink("s", print, retry=3), r"retry: 3 is not a Retry\(…\)"),
    "a sink's since": (lambda app: app.sink("s", print, since="2026-01-01"), r"since: '2026-01-01' is not a datetime"),
    "a turn's hook": (lambda app: app.turn(accumulate=3)(leaf), r"accumulate: 3 is not a function"),
    "a secret that is not set": (lambda _: Webhook("https://example.com", None), r"secret: there is none"),
    "a secret of bytes": (lambda _: Webhook("https://example.com", b"0123456789abcdef"), r"secret: it is no text"),
    "an address that is not set": (lambda _: Webhook(None, "0123456789abcdef"), r"url: .*no address of a web server"),
    "a database that is not set": (lambda _: App(None), r"url: None is no text; write sqlite:///"),
    "a naive time": (
        lambda _: RunFilter(created_from=datetime.fromisoformat("2026-01-01")),
        r"^RunFilter\(created_from\): .* no time zone",
    ),
    "a place": (lambda _: RunFilter(after="7"), r"^RunFilter\(after\): '7' is not a whole number"),
    "a worker": (lambda _: App(worker=5), r"^worker: 5 is no WorkerOptions"),
    "limits": (lambda _: App(limits=5), r"^limits: 5 is no Limits"),
    "observers": (lambda _: App(observers=[5]), r"^observers: 5 is no Observer"),
    "one observer": (lambda _: App(observers=Observer()), r"^observers: .* is no list of"),
    "a codec": (lambda _: App(codec=5), r"^codec: 5 is no Codec"),
    "a clock": (lambda _: App(clock=5), r"^clock: 5 is no Clock"),
    "no name of a file": (lambda _: App("sqlite:///"), r"^url: .* names no file; write sqlite:///"),
    "a URL's options": (lambda _: App("sqlite:///a.db?x=1"), r"^url: .* no options for SQLite's URLs"),
    "NUL in a name": (lambda _: App("sqlite:///a\0b.db"), r"^url: .* NUL"),
    "a filter's workflow": (lambda _: RunFilter(workflow=5), r"^RunFilter\(workflow\): 5 is no str"),
    "a filter's tag": (lambda _: RunFilter(tag=5), r"^RunFilter\(tag\): 5 is no str"),
    "a step without a name": (lambda app: app.step(partial(print)), r'^step: .* no name .*ctx\.step\("name", fn\)'),
    "a path": (lambda _: App(Path("orders.db")), r"url: .*Path.* is no text; write sqlite:///"),
}


@pytest.mark.parametrize("case", DECLARATIONS)
def test_a_declaration_that_cannot_be_meant_is_refused_where_it_stands(case):
    """A mistake would show up in production: when the first delivery fails, or as an option that does nothing."""
    declare, told = DECLARATIONS[case]
    with pytest.raises(InvalidOption, match=told):
        declare(App("sqlite://"))
