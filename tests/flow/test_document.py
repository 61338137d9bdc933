"""Flows from YAML and JSON documents."""

import builtins
import json
from datetime import timedelta

import pytest
from pydantic import BaseModel

from perdure import App, Flow, Retry
from perdure.errors import InvalidOption
from perdure.flow.document import load_flow

TEXT = """
flow: order
input: Order
output: told
nodes:
  - step: charge
    run: charge
    given: price
    compensate: refund
    timeout: 30s
    retry: {max_attempts: 5, delay: 100ms, jitter: 0}
  - parallel: pack
    entries:
      left: box
      right: {run: box, compensate: unbox, timeout: 1.5h}
  - route: ship
    by: choose
    branches: {sea: box, air: box}
    otherwise: box
  - loop: poll
    run: count
    max_iterations: 3
    feedback: same
  - sleep: cool
    for: 5m
  - signal: approval
    name: approve
    type: int
    timeout: 2d
    default: 7
    when: wanted
  - child: again
    workflow: inner
  - step: inside
    run: part
"""


class Order(BaseModel):
    cents: int = 5


@App().step(retry=Retry(max_attempts=2))
def charge(cents: int) -> int:
    return cents


FUNCTIONS = {
    "Order": Order, "charge": charge, "price": lambda state: state.input.cents, "refund": lambda result: None,
    "box": lambda: "box", "unbox": lambda result: None, "choose": lambda: "road", "count": lambda value, state: 1,
    "same": lambda result: result, "int": int, "wanted": lambda state: True, "told": lambda state: dict(state.results),
    "part": Flow("part").step("deep", lambda: "deep"), "two": lambda one, missing: 2,
}  # fmt: skip


def test_yaml(lab):
    """A document makes another flow than it says."""
    flow = load_flow(TEXT, FUNCTIONS)
    assert [node.kind for node in flow.nodes] == [
        "step", "parallel", "route", "loop", "sleep", "signal", "child", "flow",
    ]  # fmt: skip
    options = flow.nodes[0].task.step.settings
    assert options.retry == Retry(max_attempts=5, delay=timedelta(seconds=0.1), jitter=0)
    assert (options.timeout, options.compensate) == (timedelta(seconds=30), FUNCTIONS["refund"])
    assert flow.nodes[1].entries[1].step.settings.timeout == timedelta(hours=1.5)
    ended = lab.finish(flow, {"cents": 9}, others=(Flow("inner", output=lambda state: "in"),))
    assert ended.value == {
        "charge": 9, "left": "box", "right": "box", "ship": "box", "poll": 1, "approval": 7, "again": "in",
        "inside": {"deep": "deep"},
    }  # fmt: skip


def test_json_and_mappings_and_files(tmp_path):
    """JSON, a mapping or a file is read as another flow than YAML."""
    yaml = pytest.importorskip("yaml")
    document = yaml.safe_load(TEXT)
    path = tmp_path / "order.yaml"
    path.write_text(TEXT, encoding="utf-8")
    expected = load_flow(TEXT, FUNCTIONS).nodes
    for given in (document, json.dumps(document), path):
        assert [node.names for node in load_flow(given, FUNCTIONS).nodes] == [node.names for node in expected]


def test_everything_that_is_wrong_is_told_at_once():
    """An author of a document learns of one mistake at a time, or of none."""
    document = {
        "flow": "b/d",
        "output": "two",
        "nodes": [
            {"step": "a", "run": "nowhere", "compensate": "neither"},
            {"step": "b", "run": "box", "retries": 3},
            {"step": "c", "loop": "c", "run": "box"},
            {"sleep": "d", "for": "soon"},
            {"step": "e", "run": "box", "retry": {"attempts": 3}},
            {"parallel": "f", "entries": {}},
            {"step": "g", "run": "two"},
            {"route": "h", "by": "choose", "branches": {"x": "lost"}},
            {"step": "ok", "run": "box"},
            {"step": "ok", "run": "box"},
        ],
    }
    with pytest.raises(InvalidOption) as caught:
        load_flow(document, FUNCTIONS)
    for part in (
        "b/d", "'nowhere'", "'neither'", "retries", "exactly one of", "'soon'", "no attempts", "no entries", "missing", "'lost'",
        "already a node",
    ):  # fmt: skip
        assert part in str(caught.value), part


@pytest.mark.parametrize("text", ['{"flow": ', "[1, 2]", "flow: x", "a: [", '{"flow": "x", "nodes": [], "more": 1}'])
def test_no_flow_at_all(text):
    """A document of something else raises an error of a library's."""
    with pytest.raises(InvalidOption):
        load_flow(text, {})


def test_yaml_is_an_extra(monkeypatch):
    """Without PyYAML the error does not say what to install, or JSON does not work either."""
    real = builtins.__import__

    def without(name, *args, **kwargs):
        if name == "yaml":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without)
    assert load_flow('{"flow": "x", "nodes": []}', {}).name == "x"
    with pytest.raises(InvalidOption, match=r"perdure\[yaml\]"):
        load_flow("flow: x", {})
