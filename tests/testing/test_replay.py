import asyncio
import json
import threading
from datetime import timedelta

import pytest

from perdure import App, Context, Status, SyncContext
from perdure.errors import Divergence, InvalidInput, RunNotFound, UnknownWorkflow
from perdure.testing.kit import Kit
from perdure.testing.replay import replay

app = App("sqlite:////nowhere/replay.db")
ran = []


@app.step
def quote(amount: int) -> float:
    ran.append(amount)
    return amount * 1.5


@app.step
def discount(amount: int) -> float:
    ran.append(amount)
    return amount * 0.5


@app.workflow
async def order(ctx: Context, amount: int) -> dict[str, object]:
    price = await ctx.step(quote, amount)
    await ctx.sleep(timedelta(days=1))
    return {"price": price, "at": ctx.now(), "code": str(ctx.uuid())}


@app.workflow
async def approval(ctx: Context) -> str:
    first, second = await asyncio.gather(ctx.receive("first", str), ctx.receive("second", str))
    return first + second


@app.workflow
def plain(ctx: SyncContext, amount: int) -> float:
    price = ctx.step(quote, amount)
    ctx.sleep(3600)
    return price + ctx.step(quote, amount + 1)


@pytest.fixture
def kit(tmp_path):
    with Kit(app, tmp_path) as kit:
        yield kit
    ran.clear()


def recorded(kit, workflow, *args):
    kit.run(workflow, *args, id="recorded")
    ran.clear()
    return kit.export("recorded")


def as_now(fn):
    """A later version of a workflow: registered in an app of its own, under the recorded name."""
    later = App("sqlite://")
    return later, later.workflow(fn)


def test_the_same_code_replays_to_the_same_result_without_running_a_step(kit):
    """A replay would call services, or give something else than the run gave: time, chance and all."""
    result = kit.run(order, 10, id="o")
    ran.clear()
    replayed = kit.replay(kit.export("o"))
    assert (replayed.run_id, replayed.status, replayed.next) == ("o", Status.COMPLETED, ())
    assert replayed.result | {"at": str(replayed.result["at"])} == result | {"at": str(result["at"])}
    assert ran == []


def test_other_code_diverges_and_the_difference_is_shown(kit):
    """A change that breaks runs under way would be found in production."""
    history = recorded(kit, order, 10)

    async def order_v2(ctx: Context, amount: int) -> float:
        return await ctx.step(discount, amount)

    later, _ = as_now(order_v2)
    with pytest.raises(Divergence) as caught:
        replay(later, history, later.registry.get("order_v2"))
    assert caught.value.seq == 1
    assert "- step completed 'quote'" in str(caught.value)
    assert "+ step 'discount'" in str(caught.value)


def test_other_arguments_diverge(kit):
    """A step would be replayed as if it had been called with what it is called with now."""
    history = recorded(kit, order, 10)
    history["run"]["input"]["amount"] = 11
    with pytest.raises(Divergence, match="with arguments"):
        kit.replay(history)


def test_code_that_ends_too_early_diverges(kit):
    """Dropping the end of a workflow would look fine until a run is resumed."""
    history = recorded(kit, order, 10)

    async def order_v2(ctx: Context, amount: int) -> float:
        return await ctx.step(quote, amount)

    later, workflow = as_now(order_v2)
    with pytest.raises(Divergence, match="the end of the workflow"):
        replay(later, history, workflow)


def test_a_patched_change_replays_old_histories(kit):
    """The advice that a divergence gives could not be checked."""
    history = recorded(kit, order, 10)

    async def order_v2(ctx: Context, amount: int) -> float:
        price = await ctx.step(discount if ctx.patched("discounts") else quote, amount)
        await ctx.sleep(timedelta(days=1))
        return price

    later, workflow = as_now(order_v2)
    assert replay(later, history, workflow).result == 15.0


def test_a_run_under_way_shows_what_it_asks_for_next(kit):
    """Whether a run that waits now would go on under new code could not be told before the deploy."""

    async def main(opened: App) -> None:
        await opened.start(approval, id="a")
        await asyncio.sleep(5)
        await opened.signal("a", "second", "!")
        await asyncio.sleep(5)

    kit.main(main)
    replayed = kit.replay(kit.export("a"))
    assert (replayed.status, replayed.result) == (None, None)
    assert replayed.next == ("signal '~1/first'",)


def test_code_that_goes_on_where_the_history_ends_says_with_what(kit):
    """A step added at the end, which harms no run, would be reported as a divergence."""
    history = recorded(kit, order, 10)

    async def order_v2(ctx: Context, amount: int) -> float:
        price = await ctx.step(quote, amount)
        await ctx.sleep(timedelta(days=1))
        return await ctx.step(discount, int(price))

    later, workflow = as_now(order_v2)
    assert replay(later, history, workflow).next == ("step 'discount'",)
    assert ran == []


def test_plain_workflows_are_replayed(kit):
    """Histories of workflows in threads could not be checked, or their threads would stay."""
    before = set(threading.enumerate())
    history = recorded(kit, plain, 2)
    assert kit.replay(history).result == 7.5
    del history["journal"][3:]
    assert kit.replay(history).next == ("step 'quote#2'",)
    left = [thread for thread in set(threading.enumerate()) - before if thread.name == "perdure-workflow"]
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


def test_failures_and_renewals_are_told_apart(kit):
    """A history that ends badly, or begins anew, would be reported as one that goes on."""

    @app.workflow(name="failing")
    async def failing(ctx: Context) -> None:
        await ctx.step("work", lambda: None)
        raise LookupError("gone")

    @app.workflow(name="counting_down")
    async def counting_down(ctx: Context, left: int) -> str:
        await ctx.step("count", lambda: left)
        if left:
            ctx.continue_as_new(left - 1)
        return "done"

    async def main(opened: App) -> None:
        run = await opened.start(failing, id="f")
        with pytest.raises(Exception, match="gone"):
            await run.result()

    kit.main(main)
    failed = kit.replay(kit.export("f"))
    assert failed.status == Status.FAILED
    assert isinstance(failed.error, LookupError)
    kit.run(counting_down, 2, id="c")
    history = kit.export("c")
    assert kit.replay(history).result == "done"
    history["run"]["input"]["left"] = 1
    assert kit.replay(history).next == ("continue_as_new",)


def test_a_file_is_read(kit, tmp_path):
    """Histories could not be kept beside the code."""
    path = tmp_path / "order.json"
    path.write_text(json.dumps(recorded(kit, order, 10)))
    assert kit.replay(path).result["price"] == 15.0
    assert kit.replay(str(path)).status == Status.COMPLETED


@pytest.mark.parametrize("document", [{}, {"perdure": 99}, []])
def test_what_is_no_export_is_refused(kit, tmp_path, document):
    """A wrong file would end in some error from the depths."""
    path = tmp_path / "wrong.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InvalidInput, match="exported run"):
        kit.replay(path)


def test_a_history_of_an_unknown_workflow_is_refused(kit):
    """A renamed workflow would be reported as a bug of the kit."""
    history = recorded(kit, order, 10)
    with pytest.raises(UnknownWorkflow):
        replay(App("sqlite://"), history)


def test_an_export_is_plain_json_and_complete(kit):
    """An export could not be written to a file, or would lack what a replay needs."""

    @app.workflow(name="telling")
    async def telling(ctx: Context, names: list[str]) -> str:
        await ctx.emit("begun", {"names": names})
        return await ctx.step("long", lambda: "long " * 20_000)

    async def main(opened: App) -> None:
        await (await opened.start(telling, ["ä", "b"], id="t", tags=["x", "y"])).result()

    kit.main(main)
    document = kit.export("t")
    assert json.loads(json.dumps(document)) == document
    assert document["perdure"] == 1
    run = document["run"]
    assert run["input"] == {"names": ["ä", "b"]}
    assert run["output"] == "long " * 20_000
    assert (run["id"], run["workflow"], run["status"], run["tags"]) == ("t", "telling", "completed", ["x", "y"])
    assert [(entry["seq"], entry["kind"], entry["key"]) for entry in document["journal"]] == [
        (1, "emitted", "begun"), (2, "step_completed", "long"), (3, "completed", ""),
    ]  # fmt: skip
    assert document["journal"][0]["data"] == {"name": "begun", "data": {"names": ["ä", "b"]}}
    assert document["journal"][1]["data"] == "long " * 20_000
    with pytest.raises(RunNotFound):
        kit.export("nobody")
