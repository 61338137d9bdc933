"""Flows whose worker is killed at each of their commits."""

import asyncio

import pytest

from perdure import App, Entry, Flow, Retry, Terminal
from perdure.testing.kit import Kit

app = App("sqlite:////nowhere/flows.db")
done: list[str] = []


def do(name):
    async def body(state):
        done.append(f"+{name}")
        await asyncio.sleep(1)
        return name

    return body


def undo(result):
    done.append(f"-{result}")


async def agent(state):
    done.append("+agent")
    if state.resumption is None:
        return {"status": "suspended", "state": {}, "pendingToolCalls": []}
    return "agent"


def last(state):
    raise Terminal(f"lost {state['agent']}")


COMMON = {"compensate": undo, "retry": Retry(max_attempts=2)}
INNER = app.flow(Flow("inner", output=lambda state: "inner").step("deep", do("deep"), **COMMON))
FLOW = app.flow(
    Flow("outer")
    .parallel("fan", {"left": Entry(do("left"), **COMMON), "right": do("right")})
    .route("way", lambda: "a", {"a": do("a")}, **COMMON)
    .loop("again", lambda value, state: "again", max_iterations=2, **COMMON)
    .sleep("nap", 60)
    .child("child", INNER, compensate=undo)
    .step("agent", agent, **COMMON)
    .step("last", last)
)


@pytest.fixture
def kit(tmp_path):
    with Kit(app, tmp_path) as kit:
        yield kit


async def resume(run):
    await asyncio.sleep(3600)
    await run.signal("agent", "go on")


def test_a_flow_bears_every_crash(kit):  # W01, B012, B092
    """A crash at any commit of a flow, also while it is undone, loses, repeats or reorders something."""

    def undone() -> list[str]:
        # A body that runs when its worker dies runs twice; all others once, and in this order.
        return list(dict.fromkeys(entry for entry in done if entry.startswith("-")))

    report = kit.crash_everywhere(FLOW, before=done.clear, observe=undone, meanwhile=resume)
    assert report.kills > 20
    assert undone() == ["-agent", "-inner", "-again", "-a", "-left"]
