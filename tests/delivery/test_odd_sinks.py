"""Sinks, and the deliverer itself, that fail in ways nobody has thought of: what is to be told is told or put aside."""

import asyncio

import pytest
from sinkkit import QUICK, Ledger, lives, ship

from perdure import Retry
from perdure.codec.payload import Compressed
from perdure.errors import StoreError
from perdure.model.event import Event
from perdure.outbox import deliverer, reader
from perdure.store.base import BaseStore


class Odd(BaseException):
    """Not even an Exception."""


class Moody(type):
    """A user's class that cannot be asked what belongs to it."""

    def __instancecheck__(cls, _instance):
        raise RuntimeError("do not ask")


class Mood(Exception, metaclass=Moody):
    pass


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("error", [Odd("no"), SystemExit("no"), Mood("no")], ids=lambda error: type(error).__name__)
def test_a_sink_that_raises_something_odd_has_failed(office, error, plain):
    """The delivery would count as being made until the worker leaves, and nothing behind it be told."""

    async def main():
        async def sink(event: Event) -> None:
            raise error

        def plain_sink(event: Event) -> None:
            raise error

        options = {"retry": Retry(on=(Mood,), delay=1)}
        async with lives(office, ship, sinks={"s": (plain_sink if plain else sink, options)}) as app:
            await app.start("ship", "o-1", id="r")
            await asyncio.sleep(60)
            (dead,) = await app.client.dead_events("s")
            assert dead.error == f"{type(error).__name__}: no"

    office.play(main)


MISTAKES = [(deliverer.Deliverer, "_claim_due"), (reader.Reader, "_event")]


@pytest.mark.parametrize(("owner", "name"), MISTAKES, ids=lambda part: getattr(part, "__name__", part))
def test_a_mistake_of_ours_is_a_failure_that_passes(office, monkeypatch, caplog, owner, name):
    """What a sink is to be told would stay with a worker that has dropped it, or nobody would look when it is due."""
    real, failed = getattr(owner, name), []

    def fail_first(self, *args):
        if not failed:
            failed.append(1)
            raise RuntimeError("a mistake of ours")
        return real(self, *args)

    async def main():
        (ledger := Ledger()).refuse["r"] = OSError("no")
        async with lives(office, ship, sinks={"s": (ledger, {"events": "completed"})}) as app:
            await app.start("ship", "o-1", id="r")
            await asyncio.sleep(0.5)
            assert ledger.of("r") == ["completed"]
            ledger.refuse.clear()
            monkeypatch.setattr(owner, name, fail_first)
            await asyncio.sleep(60)
            assert ledger.of("r") == ["completed", "completed"]
            assert await office.count(app, "outbox") == 0

    office.play(main)
    assert failed
    assert any(record.exc_info and "mistake" in str(record.exc_info[1]) for record in caplog.records)


@pytest.mark.parametrize("statement", ["end_delivery", "claim_deliveries"])
def test_a_refusal_of_the_database_passes_too(office, monkeypatch, statement):
    """An error that trying again seldom helps would leave the delivery with a worker that has dropped it."""
    real, failed = BaseStore.submit, []

    def refuse_first(store, operation, done):
        if not failed and operation.lines and operation.lines[0][0] == statement:
            failed.append(1)
            raise StoreError("the password is wrong just now")
        real(store, operation, done)

    async def main():
        ledger = Ledger()
        async with lives(office, ship, sinks={"s": (ledger, {})}) as app:
            monkeypatch.setattr(BaseStore, "submit", refuse_first)
            await app.start("ship", "o-1", id="r")
            await asyncio.sleep(60)
            assert failed
            assert ledger.of("r") == ["started", "order.packed", "mail", "completed"]
            assert await office.count(app, "outbox") == 0

    office.play(main)


def test_a_codec_that_fails_on_an_error_leaves_its_name(office):
    """As above; and what is sealed elsewhere would stand there for everybody to read."""

    class Weak(Compressed):
        def encode(self, data: bytes) -> bytes:
            if b"OSError" in data:
                raise ValueError("too much")
            return super().encode(data)

    async def main():
        (ledger := Ledger()).refuse["r"] = OSError("secret")
        app = office.app(ship, codec=Weak())
        app.sink("s", ledger, retry=QUICK)
        async with app:
            await app.start("ship", "o-1", id="r")
            await asyncio.sleep(60)
            (dead,) = await app.client.dead_events("s")
            assert dead.error == "OSError"
            assert dead.attempts == 3

    office.play(main)


@pytest.mark.parametrize("hangs", [False, True])
def test_a_sink_that_cannot_be_closed_keeps_nobody_from_leaving(office, caplog, hangs):
    """The other sinks would stay open, and the worker count as alive until its process ends."""

    class Door(Ledger):
        closed = 0

        async def aclose(self) -> None:
            if hangs:
                await asyncio.Event().wait()
            raise OSError("stuck")

    class Good(Ledger):
        closed = False

        async def aclose(self) -> None:
            self.closed = True

    async def main():
        good = Good()
        async with office.app().connected() as other:
            async with lives(office, ship, sinks={"a": (Door(), {}), "b": (good, {})}):
                pass
            assert good.closed
            assert [row[6] for row in await other.client.store.rows("workers")] == ["left"]

    office.play(main)
    assert "sink a could not be closed" in caplog.text
