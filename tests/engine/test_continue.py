"""Endless runs, large payloads, long histories: continue_as_new, blobs and limits."""

import asyncio

import pytest

from perdure import Context, RunFilter
from perdure.client import steer
from perdure.errors import HistoryTooLong, InvalidInput, PayloadTooLarge, StartConflict
from perdure.model.limits import Limits


# ------------------------------------------------------------------------------------ continue as new
def test_a_hundred_generations(lab):
    """A run without end would grow its journal with each generation, change its id, or lose count."""

    async def flow(ctx: Context, n: int, total: int = 0) -> int:
        total += await ctx.step("add", lambda: n)
        await ctx.sleep(60)
        if n < 100:
            ctx.continue_as_new(n + 1, total)
        return total

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", 1, id="r", tags=["endless"])
            ended = await lab.ended(app, "r", "flow")
            assert (ended.value, ended.seconds) == (5050, 6000)
            assert len(ended.events) <= 6
            assert await lab.sql(app, "select count(*) from perdure_journal") == [(len(ended.events),)]
            assert await lab.sql(app, "select count(*) from perdure_runs") == [(1,)]
            found, _ = await app.client.runs(RunFilter(tag="endless"))
            assert [run.id for run in found] == ["r"]
            await lab.check_replay(app, ended, "flow")

    lab.play(main)


def test_a_generation_without_an_operation(lab):
    """continue_as_new before the first step, again and again, would hang or starve the worker."""

    async def flow(ctx: Context, n: int) -> int:
        if n:
            ctx.continue_as_new(n - 1)
        return n

    async def other(ctx: Context) -> str:
        return "alive"

    async def main():
        async with lab.worker(flow, other) as app:
            handle = await app.start("flow", 50)
            assert await (await app.start("other")).result() == "alive"
            assert await handle.result() == 0

    lab.play(main)


def test_signals_outlive_a_generation(lab):
    """I9: a signal that came before continue_as_new and was not received would be lost."""

    async def flow(ctx: Context, got: list[str]) -> list[str]:
        got = [*got, await ctx.receive("word", str)]
        if len(got) < 4:
            ctx.continue_as_new(got)
        return got

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", [], id="r")
            for word in "abcd":
                await app.signal("r", "word", word)
            assert (await lab.ended(app, "r")).value == list("abcd")

    lab.play(main)


def test_time_goes_on_and_chance_begins_anew(lab):
    """The next generation would begin in the past, or children of two generations share an id."""

    async def child(ctx: Context, n: int) -> int:
        return n

    async def flow(ctx: Context, seen: list[str]) -> list[str]:
        seen = [*seen, f"{ctx.now():%M:%S}", str(await ctx.call("child", len(seen)))]
        await ctx.sleep(60)
        if len(seen) < 6:
            ctx.continue_as_new(seen)
        return seen

    async def main():
        async with lab.worker(flow, child) as app:
            await app.start("flow", [], id="r")
            ended = await lab.ended(app, "r", "flow")
            assert ended.value == ["06:40", "0", "07:40", "2", "08:40", "4"]
            children, _ = await app.client.runs(RunFilter(parent="r"))
            assert len({run.id for run in children}) == 3

    lab.play(main)


def test_input_of_the_next_generation_is_checked(lab):
    """Input that does not fit would begin a generation that fails, with the history gone."""

    async def flow(ctx: Context, n: int) -> str:
        await ctx.step("x", lambda: 1)
        try:
            ctx.continue_as_new("no number")
        except InvalidInput as error:
            return error.code

    assert lab.finish(flow, 1).value == "invalid_input"


@pytest.mark.parametrize("size", [10, 100_000], ids=["small", "large"])
@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_the_first_input_is_known_for_ever(lab, rounds, size):
    """A second start of the id with other input would pass for the same run once the first input was replaced."""

    async def flow(ctx: Context, n: int, text: str, known: bool) -> int:
        await ctx.receive("go")
        if n < rounds:
            ctx.continue_as_new(n + 1, f"{n}" * size, True)
        return n

    async def main():
        async with lab.worker(flow) as app:
            first = (0, "x" * size, False)
            await app.start("flow", *first, id="r")
            for n in range(rounds + 1):
                await asyncio.sleep(10)
                assert (await app.start("flow", *first, id="r")).id == "r"
                now = (n, f"{n - 1}" * size, True)
                for other in [(0, "x" * (size - 1) + "y", False), (1, "x" * size, False), *([now] if n else [])]:
                    with pytest.raises(StartConflict, match="other input"):
                        await app.start("flow", *other, id="r")
                await app.signal("r", "go")
            assert (await lab.ended(app, "r", "flow")).value == rounds
            assert await (await app.start("flow", *first, id="r")).result() == rounds
            await app.client.rerun("r", before="")
            with pytest.raises(StartConflict, match="other input"):
                await app.start("flow", 9, "x" * size, False, id="r")

    lab.play(main)


@pytest.mark.parametrize("where", ["gather", "group"])
def test_continue_as_new_in_a_task(lab, where):
    """Called from a task of the workflow it would be lost, or leave the run hanging."""

    async def again(ctx: Context) -> None:
        await ctx.sleep(1)
        ctx.continue_as_new(0)

    async def flow(ctx: Context, n: int) -> str:
        if n and where == "gather":
            await asyncio.gather(again(ctx), ctx.sleep(1000))
        elif n:
            async with asyncio.TaskGroup() as group:
                group.create_task(again(ctx))
                group.create_task(ctx.sleep(1000))
        return "second"

    ended = lab.finish(flow, 1)
    assert (ended.value, ended.seconds) == ("second", 1)


def test_except_exception_does_not_catch_it(lab):
    """`except Exception` around continue_as_new would swallow it."""

    async def flow(ctx: Context, n: int) -> int:
        try:
            if n:
                ctx.continue_as_new(n - 1)
        except Exception:  # noqa: BLE001 - this is what is tested
            return -1
        return n

    async def main():
        async with lab.worker(flow) as app:
            assert await (await app.start("flow", 3)).result() == 0

    lab.play(main)


# ------------------------------------------------------------------------------------------- payloads
def test_large_payloads_are_stored_once(lab):
    """A large result would be copied into every row that has it, or not come back."""
    big = "x" * 100_000

    async def child(ctx: Context, text: str) -> str:
        return text

    async def flow(ctx: Context, text: str) -> int:
        got = await ctx.step("echo", lambda: text)
        got = await ctx.call("child", got)
        await ctx.emit("said", "small")
        got = await ctx.receive("more", str)
        await ctx.sleep(60)
        return len(await ctx.step("again", lambda: got))

    async def main():
        async with lab.worker(flow, child) as app:
            await app.start("flow", big, id="r")
            await app.signal("r", "more", big)
            ended = await lab.ended(app, "r", "flow")
            assert ended.value == 100_000
            sizes = await lab.sql(app, "select size from perdure_blobs")
            # The text itself, and the input, in which it stands by the parameter's name.
            assert sorted(size - 100_000 for (size,) in sizes) == [2, len('{"text":""}')]
            rows = "select max(length(data)) from perdure_journal union all select max(length(input)) from perdure_runs"
            assert all(size < 1000 for (size,) in await lab.sql(app, rows))
            refs = await lab.sql(app, "select count(*) from perdure_blob_refs")
            assert refs[0][0] >= 3
            await lab.check_replay(app, ended, "flow")

    lab.play(main)


def test_blobs_of_a_forgotten_history_are_dropped(lab):
    """I10: an endless run would fill the disk with large payloads that nothing refers to any more."""

    async def flow(ctx: Context, n: int, text: str) -> int:
        await ctx.step("mine", lambda: f"{n}" * 50_000)
        await ctx.step("everybodys", lambda: "e" * 50_000)
        await ctx.receive("go", str)
        if n < 5:
            ctx.continue_as_new(n + 1, "abcdef"[n] * 50_000)
        return n

    async def main():
        async with lab.worker(flow) as app:

            async def kept() -> str:
                """The letters of which there are large payloads, after a prune that finds no old run."""
                assert await app.client.prune(older_than=10**6) == 0
                return "".join(sorted(text[-3] for (text,) in await lab.sql(app, "select data from perdure_blobs")))

            await app.start("flow", 0, "x" * 50_000, id="r")
            await app.signal("r", "unread", "u" * 50_000)
            await app.signal("r", "unread", "k" * 50_000, key="k")
            await asyncio.sleep(10)
            assert await kept() == "0ekux"
            for n in range(1, 6):
                await app.signal("r", "go", "g" * 50_000, key=f"{n}")
                await asyncio.sleep(10)
                # Keyed signals stay, and so does the first input, to be compared with.
                assert await kept() == f"{n}" + "".join(sorted("abcde"[n - 1] + "egkux"))
            await app.signal("r", "go", "")
            ended = await lab.ended(app, "r", "flow")
            assert ended.value == 5
            await lab.check_replay(app, ended, "flow")
            assert [found for found in await app.client.doctor() if found.severity == "error"] == []

    lab.play(main)


def test_a_fork_does_not_copy_what_was_forgotten_meanwhile(lab, monkeypatch):
    """A fork would get entries whose payloads are gone, and could never be driven."""
    real, passed = steer.fork_of, []

    async def flow(ctx: Context, n: int) -> int:
        size = len(await ctx.step("large", lambda: f"{n}" * 50_000))
        await ctx.receive("go")
        if n < 1:
            ctx.continue_as_new(n + 1)
        return n + size

    async def main():
        async with lab.worker(flow) as app:

            async def fork_of(*args):
                """The run goes on, and the blobs are pruned, between the look at it and the fork."""
                operation = await real(*args)
                if not passed:
                    passed.append(1)
                    await app.signal("r", "go")
                    await asyncio.sleep(10)
                    await app.client.prune(older_than=10**6)
                return operation

            monkeypatch.setattr(steer, "fork_of", fork_of)
            await app.start("flow", 0, id="r")
            await asyncio.sleep(10)
            await app.client.fork("r", id="fork")
            assert passed
            await app.signal("fork", "go")
            assert (await lab.ended(app, "fork")).value == 50_001
            assert [found for found in await app.client.doctor() if found.severity == "error"] == []

    lab.play(main)


def test_following_a_run_passes_over_what_was_forgotten_meanwhile(lab):
    """Whoever follows an endless run slowly would get an error instead of what comes next."""

    async def flow(ctx: Context, n: int) -> int:
        await ctx.step("small", lambda: n)
        await ctx.step("large", lambda: f"{n}" * 50_000)
        await ctx.receive("go")
        if n < 1:
            ctx.continue_as_new(n + 1)
        return n

    async def main():
        async with lab.worker(flow) as app:
            await app.start("flow", 0, id="r")
            await asyncio.sleep(10)
            rows, listed = app.client.store.rows, []

            async def forgetting(name, *parameters):
                found = await rows(name, *parameters)
                if name == "entries" and not listed:
                    listed.extend(found)
                    await app.signal("r", "go")
                    await asyncio.sleep(10)
                    await app.client.prune(older_than=10**6)
                    await app.signal("r", "go")
                return found

            app.client.store.rows = forgetting
            kinds = [event.kind async for event in app.handle("r").events()]
            assert kinds[0] == "step_completed"
            assert kinds[-6:] == [
                "continued", "step_completed", "step_completed", "receive_started", "signal_received", "completed",
            ]  # fmt: skip
            assert kinds[1] == "receive_started", "the large one is gone"

    lab.play(main)


@pytest.mark.parametrize("size", [999, 1000, 1001])
def test_the_limit_for_one_payload(lab, size):
    """A payload one byte over the limit would be accepted, or one at the limit refused."""
    text = "ä" * ((size - 2) // 2) + "x" * (size % 2)

    async def flow(ctx: Context) -> str:
        try:
            return f"stored {len(await ctx.step('s', lambda: text))}"
        except PayloadTooLarge as error:
            return f"refused {error.size} of {error.limit}"

    ended = lab.finish(flow, settings={"limits": Limits(payload_bytes=1000)})
    assert ended.value == (f"stored {len(text)}" if size <= 1000 else "refused 1001 of 1000")


def test_everything_that_may_be_too_large(lab):
    """Input, signal, child's input, result, or an error larger than the limit would hang a run or a caller."""
    big = "x" * 5000

    async def child(ctx: Context, text: str) -> None:
        return None

    async def flow(ctx: Context, text: str) -> str:
        out = []
        for what in (lambda: ctx.call("child", big), lambda: ctx.step("s", lambda: big)):
            try:
                await what()
            except PayloadTooLarge as error:
                out.append(error.what)
        try:
            await ctx.step("fails", lambda: (_ for _ in ()).throw(ValueError(big)))
        except Exception as error:  # noqa: BLE001 - an error must be storable in any case
            out.append(type(error).__name__)
        return " / ".join(out) if text == "small" else big

    async def main():
        async with lab.worker(flow, child, limits=Limits(payload_bytes=4000)) as app:
            with pytest.raises(PayloadTooLarge):
                await app.start("flow", big)
            await app.start("flow", "large", id="large")
            with pytest.raises(PayloadTooLarge):
                await app.signal("large", "s", big)
            assert (await lab.ended(app, "large")).error.code == "payload_too_large"
            ended = await lab.ended(app, (await app.start("flow", "small")).id)
            assert ended.value == "The input of child / The result of step 's' / ValueError"

    lab.play(main)


def test_a_run_that_fails_with_a_large_error(lab):
    """A run whose own error is larger than the limit for payloads would never end."""

    async def flow(ctx: Context) -> None:
        raise ValueError("x" * 5000)

    ended = lab.finish(flow, settings={"limits": Limits(payload_bytes=1000)})
    assert (ended.status, type(ended.error)) == ("failed", ValueError)


# -------------------------------------------------------------------------------------------- histories
def test_a_history_has_a_limit(lab):
    """I10: an endless loop of steps would fill the disk instead of failing with advice."""

    async def flow(ctx: Context) -> None:
        while True:
            await ctx.step("s", lambda: None)

    ended = lab.finish(flow, settings={"limits": Limits(history_entries=100)})
    assert (ended.status, type(ended.error), ended.error.limit) == ("failed", HistoryTooLong, 100)
    assert len(ended.events) in range(100, 104)
    assert "continue_as_new" in str(ended.error)


def test_continue_as_new_begins_with_a_short_history(lab):
    """The limit would count what earlier generations wrote."""

    async def flow(ctx: Context, n: int) -> int:
        for _ in range(60):
            await ctx.step("s", lambda: None)
        if n < 5:
            ctx.continue_as_new(n + 1)
        return n

    ended = lab.finish(flow, 0, settings={"limits": Limits(history_entries=100)})
    assert (ended.status, ended.value) == ("completed", 5)


def test_a_thousand_steps_replay(lab):
    """A long history would replay wrongly, or in quadratic time."""

    async def flow(ctx: Context) -> int:
        total = 0
        for n in range(1000):
            total += await ctx.step("s", lambda n=n: n)
        await ctx.sleep(60)
        return total

    assert lab.finish(flow).value == 499_500
