"""What makes a durable call the same call: its id and its manifest, as data."""

import asyncio
import hashlib
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest

from perdure import ManifestMismatch, Retry, RunNotFound, joined_id, run_durable
from perdure.codec.canonical import canonical_hash, canonical_json
from perdure.errors import InvalidName, NotSerializable


async def work(ctx):
    return 1


def test_a_hash_is_that_of_the_canonical_text():
    """I1 I5: two languages, or two versions, would have other names for the same job."""
    value = {"b": [3, 2, 1], "a": {"é": "ß", "": None}, "10": 1, "9": True}
    text = '{"10":1,"9":true,"a":{"":null,"é":"ß"},"b":[3,2,1]}'
    assert canonical_json(value) == text
    assert canonical_hash(value) == hashlib.sha256(text.encode()).hexdigest()


def test_what_has_no_place_in_json():
    """I2 I3 I4: a job would be named after something that cannot be compared, or a large number be cut."""
    for odd in (object(), {"x": object()}, {"f": len}, iter([1]), [ValueError("x")]):
        with pytest.raises(NotSerializable):
            canonical_hash(odd)
    # Python's JSON has these three, and each has one text.
    assert canonical_json([float("nan"), float("inf"), float("-inf")]) == "[NaN,Infinity,-Infinity]"
    assert canonical_json({"n": 2**80}) == '{"n":1208925819614629174706176}'
    assert canonical_json({"when": datetime(2026, 1, 1, tzinfo=UTC), "all": {2, 1}}) == (
        '{"all":[1,2],"when":"2026-01-01T00:00:00Z"}'
    )


@dataclass
class Job:
    task: str
    pages: set[int]


def test_a_manifest_may_be_any_data(place):
    """I6 I7 I8 M7: a job without some field, or as a dataclass, could not be named; or would be taken for another."""

    async def main():
        for n, manifest in enumerate([None, "import", ["a", 1], Job("import", {3, 1, 2}), {"task": {}}, 2**70]):
            await place.call(f"r{n}", work, manifest=manifest)
            await place.call(f"r{n}", work, manifest=manifest)
        await place.call("r3", work, manifest={"pages": [1, 2, 3], "task": "import"})
        with pytest.raises(ManifestMismatch):
            await place.call("r3", work, manifest={"pages": [1, 2], "task": "import"})

    place.play(main)


def test_a_manifest_that_cannot_be_stored_leaves_nothing(place):
    """I2 I4: a run would be there that no call could ever find again."""

    async def main():
        async with place.process() as app:
            with pytest.raises(NotSerializable):
                await run_durable("r", work, store=app, manifest={"x": len})
            with pytest.raises(NotSerializable):
                await run_durable("r", work, store=app, manifest=object())
            with pytest.raises(RunNotFound):
                await app.handle("r").info()
            assert (await run_durable("r", work, store=app)).result == 1

    place.play(main)


def test_a_large_manifest(place):
    """A manifest that does not fit a row would be compared by the name of its blob."""

    async def main():
        await place.call("r", work, manifest={"text": "x" * 100_000})
        await place.call("r", work, manifest={"text": "x" * 100_000})
        with pytest.raises(ManifestMismatch):
            await place.call("r", work, manifest={"text": "x" * 99_999 + "y"})

    place.play(main)


@pytest.mark.parametrize("run_id", ["../../etc/passwd", "chat:s:1", "ü/ö", "a" * 200])
def test_ids_are_not_files(place, run_id):
    """D3 D2: an id would be taken for a path."""

    async def main():
        assert (await place.call(run_id, work)).record.id == run_id

    place.play(main)


def test_ids_of_several_parts():
    """I9 I11 I12: two turns would share a run because of a colon in a session's name."""
    assert joined_id("chat", "s", 7) == "chat:s:7"
    assert joined_id("chat", "s:7", 1) != joined_id("chat", "s", "7:1") != joined_id("chat", "s", 7, 1)
    with pytest.raises(InvalidName):
        joined_id("chat", "a\nb")


def test_what_is_on_record(place):
    """M3 M5 M6 M10 M1 R7 S31: whoever looks at a run would not learn what was tried, when, and what came of it."""

    def flaky():
        place.ran["flaky"] += 1
        if place.ran["flaky"] < 3:
            raise ValueError("not yet")
        return {"n": 3}

    async def several(ctx):
        await ctx.step("flaky", flaky, retry=Retry(max_attempts=3, delay=10, jitter=0))
        await ctx.sleep(60)
        await ctx.receive("go")
        return "done"

    async def main():
        async with place.process() as app:
            call = asyncio.create_task(run_durable("r", several, store=app, tags=["team:a"]))
            await asyncio.sleep(200)
            await app.signal("r", "go", {"by": "ada"})
            _, record, steps = await call
            assert await app.client.tags("r") == ["team:a"]
        assert [(step.key, step.sort, step.attempts, step.value) for step in steps] == [
            ("flaky", "step", 3, {"n": 3}), ("sleep", "timer", 1, None), ("go", "signal", 1, {"by": "ada"}),
        ]  # fmt: skip
        flaky_step, slept, _ = steps
        assert flaky_step.started_at - record.created_at >= timedelta(seconds=30)
        assert slept.completed_at - flaky_step.completed_at >= timedelta(seconds=60)
        assert all(step.completed_at.tzinfo is UTC for step in steps)
        assert record.finished_at > record.created_at

    place.play(main)
