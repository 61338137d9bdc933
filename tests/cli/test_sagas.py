"""`perdure run compensate`, `run cancel --compensate` and `perdure flow show`."""

import pytest

from perdure import App, Context, Flow, Retry

app = App("sqlite:///shop.db")
tried: list[str] = []


@app.step(retry=Retry(max_attempts=1))
async def refund(charge: str) -> None:
    tried.append(charge)
    if len(tried) == 1:
        raise ValueError("the bank is closed")


@app.workflow
async def order(ctx: Context, fails: bool) -> None:
    await ctx.step("charge", lambda: "a charge", compensate=refund)
    if fails:
        raise ValueError("sold out")
    await ctx.receive("approval")


app.flow(Flow("post").step("pack", lambda: 1).signal("sent"))
versions = App("sqlite:///shop.db")
versions.flow(Flow("post").step("pack", lambda: 1).signal("sent"), version="1")
versions.flow(Flow("post").step("wrap", lambda: 1).signal("sent"), version="2")


@pytest.fixture
def stopped(shop):
    """A shop with a run whose compensation has failed."""
    tried.clear()

    async def main(app):
        run = await app.start("order", True, id="a")
        async for event in run.events():
            if event.kind == "paused":
                return

    shop.play(main, app)
    return shop


def end(shop):
    """Let a worker go on with the run until it has ended; its journal."""

    async def main(app):
        return [event.kind async for event in app.handle("a").events()]

    return shop.play(main, app)


def test_a_stopped_rollback_is_told(stopped):
    """An operator would not see that a rollback is not complete, which it is, or what to do."""
    shown = stopped.done("run", "show", "a").out
    assert "Paused: compensation_failed" in shown
    assert "charge#compensate" in shown
    assert "the bank is closed" in shown
    assert "perdure run compensate a --retry" in shown.replace("\n", " ").replace("  ", " ")
    assert "compensation_failed" in stopped.done("run", "list").out


def test_decisions(stopped):
    """A stopped rollback could not be made to go on, or goes on otherwise than was decided."""
    for wrong in ((), ("--retry", "--skip")):
        assert stopped.run("run", "compensate", "a", *wrong).code == 2
    assert stopped.run("run", "compensate", "a", "other", "--done").code == 3
    assert stopped.done("run", "compensate", "a", "charge", "--done", "--remark", "by hand").out.startswith("Decided.")
    assert end(stopped)[-2:] == ["step_resolved", "failed"]
    assert tried == ["a charge"]
    assert stopped.run("run", "compensate", "a", "--done").code == 3


def test_retry(stopped):
    """A compensation could not be tried again after its cause is gone."""
    stopped.done("run", "compensate", "a", "--retry")
    assert end(stopped)[-2:] == ["step_completed", "failed"]
    assert tried == ["a charge", "a charge"]


def test_cancel_with_compensation(shop):
    """A run could not be undone by an operator who cancels it."""
    tried[:] = ["once"]

    async def main(app):
        run = await app.start("order", False, id="a")
        async for event in run.events():
            if event.kind == "receive_started":
                return

    shop.play(main, app)
    shop.done("run", "cancel", "a", "--compensate", "--reason", "regret")
    assert end(shop)[-1] == "cancelled"
    assert tried == ["once", "a charge"]


def test_flow_show(shop):
    """A flow could not be looked at, or not what a run of it has done."""
    here = ("--app", f"{__name__}:app")
    assert shop.run("flow", "show", "post").code == 2

    async def main(app):
        run = await app.start("post", id="p")
        async for event in run.events():
            if event.kind == "receive_started":
                return

    shop.play(main, app)
    assert 'n0["pack"]' in shop.done("flow", "show", "post", *here).out
    assert "class n1 waiting" in shop.done("flow", "show", "post", "--run", "p", *here).out
    data = shop.done("flow", "show", "post", "--run", "p", "--json", *here).json
    assert [node["status"] for node in data["nodes"]] == ["completed", "waiting"]
    assert shop.run("flow", "show", "order", *here).code == 2


def test_flow_show_with_versions(shop):
    """A run would be painted on another version of its flow than the one that it goes through."""
    here = ("--app", f"{__name__}:versions")
    shop.play(lambda app: app.start("post", version="1", id="p"), versions)
    old, new = '["pack"]', '["wrap"]'
    assert old in shop.done("flow", "show", "post", "--run", "p", *here).out
    assert new in shop.done("flow", "show", "post", *here).out
    assert old in shop.done("flow", "show", "post@1", *here).out
