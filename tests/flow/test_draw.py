"""Flows as diagrams and data, with runs painted on them."""

import json

import pytest

from perdure import Entry, Flow, Retry, Terminal
from perdure.flow.draw import Standing, as_data, mermaid, standings


def pack_left():
    return 1


def pack_right():
    return 2


def unpack(_):
    return None


def choose(state):
    return "sea"


def by_sea():
    return "ship"


def poll():
    return 1


INNER = Flow("inner").step("deep", pack_left)
FLOW = (
    Flow("order")
    .step("check", INNER)
    .parallel("pack", {"left": Entry(pack_left, compensate=unpack), "right": pack_right})
    .route("ship", choose, {"sea": by_sea, "air": pack_left})
    .loop("poll", poll, max_iterations=3, until=lambda result, count: count == 2)
    .sleep("cool", 60)
    .signal("approval", "approve", timeout=3600)
    .child("invoice", "order", when=lambda state: False)
    .step("thank <you>", pack_left)
)


def test_as_data():
    """A dashboard cannot draw a flow, as something of it is missing."""
    data = json.loads(json.dumps(as_data(FLOW)))
    assert data["flow"] == "order"
    assert [node["kind"] for node in data["nodes"]] == [
        "flow", "parallel", "route", "loop", "sleep", "signal", "child", "step",
    ]  # fmt: skip
    check, pack, ship, repeated, cool, approval, invoice, _ = data["nodes"]
    assert check["flow"] == {"flow": "inner", "nodes": [{"kind": "step", "name": "deep", "run": "pack_left"}]}
    assert pack["entries"] == {"left": {"run": "pack_left", "compensate": "unpack"}, "right": {"run": "pack_right"}}
    assert (ship["by"], ship["branches"]["sea"]) == ("choose", {"run": "by_sea"})
    assert (repeated["run"], repeated["max_iterations"]) == ("poll", 3)
    assert cool["until"] == "60 s"
    assert (approval["signal"], approval["timeout"]) == ("approve", "3600 s")
    assert (invoice["run"], invoice["when"]) == ("order", "<lambda>")


def test_mermaid():
    """A diagram lacks a node or an arrow, or cannot be read."""
    lines = [line.strip() for line in mermaid(FLOW).splitlines()]
    assert lines[0] == "flowchart TD"
    for expected in (
        'n0(["check"])', 'n0_0["deep: pack_left"]', "n0 --> n0_0", "n0_0 --> n1", 'n1{{"pack"}}', 'n1_0["left: pack_left"]',
        "n1 --> n1_1", 'n1_0 -.-> n1_0_undo(["unpack"])', 'n2{"ship"}', 'n2 -->|"sea"| n2_0', "n2_1 --> n3", "n2 --> n3",
        'n3 -->|"at most 3 times"| n3', 'n4[/"cool: sleep 60 s"/]', 'n6[["invoice?: order"]]',
        'n7["thank &lt;you&gt;: pack_left"]', "n7 --> done",
    ):  # fmt: skip
        assert expected in lines
    assert not any("class" in line for line in lines)


async def painted(lab, app, flow):
    run = app.handle("r")
    return standings(flow, await lab.journal(app, "r"), (await run.info()).status)


def test_painted(lab):  # B110, B111
    """How far a run has come is not what the diagram shows."""

    async def main():
        async with lab.worker(FLOW) as app:
            assert set(standings(FLOW, [], "queued").values()) == {Standing("pending")}
            run = await app.start("order", None, id="r")
            await lab.waits_for(app, "r", "signal:approve")
            found = await painted(lab, app, FLOW)
            assert found == {
                "check": Standing("completed"), "pack": Standing("completed"), "left": Standing("completed"),
                "right": Standing("completed"), "ship": Standing("completed", "sea"),
                "poll": Standing("completed", "2 of at most 3"), "cool": Standing("completed"),
                "approval": Standing("waiting"), "invoice": Standing("pending"), "thank <you>": Standing("pending"),
            }  # fmt: skip
            assert "class n5 waiting" in mermaid(FLOW, found)
            assert "class n1_0 completed" in mermaid(FLOW, found)
            assert as_data(FLOW, found)["nodes"][2]["detail"] == "sea"
            await run.signal("approve")
            await run.result()
            found = await painted(lab, app, FLOW)
            assert found["invoice"] == Standing("skipped")
            assert found["thank <you>"] == Standing("completed")

    lab.play(main)


def test_painted_rollback(lab):
    """A run that was undone looks as if it were still done."""

    def fail():
        raise Terminal("no")

    flow = (
        Flow("order")
        .parallel("p", {"good": Entry(poll, compensate=unpack), "bad": fail}, retry=Retry(max_attempts=1))
        .step("never", poll)
    )

    async def main():
        async with lab.worker(flow) as app:
            await app.start("order", None, id="r")
            await lab.ended(app, "r", "order")
            assert await painted(lab, app, flow) == {
                "p": Standing("failed"), "good": Standing("compensated"), "bad": Standing("failed"),
                "never": Standing("pending"),
            }  # fmt: skip

    lab.play(main)


@pytest.mark.parametrize(("decision", "status"), [("done", "compensated"), ("skip", "completed")])
def test_painted_decision(lab, decision, status):
    """What an operator left as it is looks as if it were undone, or the other way round."""

    def fail(*_):
        raise Terminal("no")

    flow = Flow("order").step("good", poll, compensate=fail).step("bad", fail)

    async def main():
        async with lab.worker(flow) as app:
            await app.start("order", None, id="r")
            await lab.until(app, "r", "paused")
            assert (await painted(lab, app, flow))["good"] == Standing("compensating")
            await app.client.compensate("r", decision)
            await lab.ended(app, "r", "order")
            assert (await painted(lab, app, flow))["good"] == Standing(status)

    lab.play(main)


@pytest.mark.parametrize("status", ["running", "waiting"])
def test_what_runs_now(status):
    """A step that runs leaves no entry, and the diagram shows nothing going on."""
    flow = Flow("f").step("a", poll).step("b", poll)
    assert standings(flow, [], status)["a"].status == ("running" if status == "running" else "pending")
