"""Programs for the interpreters in workflows.py, drawn from the seed, and what they must return."""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from random import Random
from typing import Any

Node = dict[str, Any]
LEAVES = (
    "step", "step", "step", "flaky", "once", "threaded", "sleep", "sleep", "receive", "receive", "tell", "chance",
    "transaction", "transaction", "limited", "turn",
)  # fmt: skip
BRANCHES = (
    "seq", "seq", "gather", "gather", "group", "first", "each", "race", "timeout", "timeout", "call", "call", "spawn",
    "map", "scope", "patched", "tidy", "flow", "flow",
)  # fmt: skip
SYNC_LEAVES = (*(leaf for leaf in LEAVES if leaf not in {"limited", "turn"}), "call", "scope")
NAMES = ("go", "stop", "more")
PATCHES = ("better", "faster")


class Draw:
    """
    Draws one program.

    Args:
        room: About how many nodes it may have.
    """

    def __init__(self, rng: Random, room: int) -> None:
        self.rng = rng
        self.room = room
        self.values = itertools.count(rng.randrange(100))

    def program(self, *, sync: bool) -> Node:
        """A whole program; some are meant to fail."""
        parts = []
        while self.room > 0:
            parts.append(self.leaf(SYNC_LEAVES) if sync else self.node(3))
        if self.rng.random() < 0.15:
            parts.append({"do": "fail", "value": next(self.values)})
        return {"do": "seq", "parts": parts}

    def node(self, depth: int) -> Node:
        """A node with at most so many levels below it."""
        if depth <= 0 or self.room <= 1 or self.rng.random() < 0.55:
            return self.leaf(LEAVES)
        self.room -= 1
        return getattr(self, f"_{self.rng.choice(BRANCHES)}")(depth - 1)

    def leaf(self, kinds: tuple[str, ...]) -> Node:
        """A node without others below it, or nearly."""
        self.room -= 1
        return getattr(self, f"_{self.rng.choice(kinds)}")(0)

    # -------------------------------------------------------------------------------------- leaves
    def _step(self, _depth: int, **more: Any) -> Node:
        rng = self.rng
        delay = rng.choice((0, 0, 0.001, 0.02, 0.3, 1.0, rng.choice((0.1, 3.0, 9.0))))
        undo = {"fails": rng.choice((0, 0, 1, 3)), "delay": rng.choice((0, 0.02, 3.0))} if rng.random() < 0.3 else None
        says = rng.choice((0, 0, 0, 0, 1, 3, 12))
        return {
            "do": "step", "value": next(self.values), "delay": delay, "tries": 1, "undo": undo, "says": says, **more,
        }  # fmt: skip

    def _flaky(self, depth: int) -> Node:
        tries = self.rng.choice((2, 3, 4))
        fails = self.rng.choice((1, 1, 2, tries))
        return self._step(depth, tries=tries, fails=fails, pause=self.rng.choice((0, 0.02, 0.5, 5.0)))

    def _once(self, depth: int) -> Node:
        tries = self.rng.choice((1, 1, 3))
        return self._step(depth, once=True, tries=tries, fails=self.rng.choice((0, 0, 1)), pause=0.05)

    def _threaded(self, depth: int) -> Node:
        return self._step(depth, thread=True)

    def _turn(self, depth: int) -> Node:
        return self._flaky(depth) | {"turn": self.rng.choice(("on", "anew")), "undo": None}

    def _limited(self, depth: int) -> Node:
        return self._step(depth, limit=self.rng.choice((0.01, 0.1, 3.0)))

    def _transaction(self, _depth: int) -> Node:
        return {"do": "transaction", "value": next(self.values), "fails": int(self.rng.random() < 0.2)}

    def _chance(self, _depth: int) -> Node:
        return {"do": "chance", "value": next(self.values)}

    def _sleep(self, _depth: int) -> Node:
        seconds = self.rng.choice((0, 0.01, 0.05, 0.3, 1.0, 4.0, 25.0))
        return {"do": "sleep", "seconds": seconds, "plain": self.rng.random() < 0.3}

    def _receive(self, _depth: int) -> Node:
        timeout = self.rng.choice((None, None, None, 0, 0.3, 3.0, 12.0))
        return {"do": "receive", "name": self.rng.choice(NAMES), "timeout": timeout}

    def _tell(self, _depth: int) -> Node:
        return {"do": "tell", "value": next(self.values)}

    # ------------------------------------------------------------------------------------- branches
    def _parts(self, depth: int) -> list[Node]:
        return [self.node(depth) for _ in range(self.rng.choice((2, 2, 3, 4)))]

    def _seq(self, depth: int) -> Node:
        return {"do": "seq", "parts": self._parts(depth)}

    def _gather(self, depth: int) -> Node:
        return {"do": "gather", "parts": self._parts(depth)}

    def _group(self, depth: int) -> Node:
        return {"do": "group", "parts": self._parts(depth)}

    def _first(self, depth: int) -> Node:
        return {"do": "first", "parts": self._parts(depth)}

    def _each(self, depth: int) -> Node:
        return {"do": "each", "parts": self._parts(depth)}

    def _race(self, depth: int) -> Node:
        return {"do": "race", "parts": self._parts(depth)}

    def _timeout(self, depth: int) -> Node:
        return {"do": "timeout", "seconds": self.rng.choice((0, 0.05, 1.0, 6.0)), "part": self.node(depth)}

    def _call(self, depth: int) -> Node:
        return {"do": "call", "part": self.node(depth)}

    def _spawn(self, depth: int) -> Node:
        rng = self.rng
        node: Node = {
            "do": "spawn", "part": self.node(depth), "between": self.node(0), "detached": rng.random() < 0.4,
            "awaited": rng.random() < 0.6,
        }  # fmt: skip
        # Chance of its own, so that the programs of all seeds stay as they are but for this.
        chance = Random(json.dumps(node))
        if not node["detached"] and chance.random() < 0.5:
            node |= {
                "do": "twice", "id": chance.randrange(1_000_000), "await": chance.choice(("both", "first", "second")),
                "other": chance.random() < 0.3,
            }  # fmt: skip
        return node

    def _map(self, depth: int) -> Node:
        rng = self.rng
        fails = rng.random() < 0.4
        items = [self._step(depth, fails=int(fails and rng.random() < 0.3)) for _ in range(rng.choice((1, 3, 5)))]
        self.room -= len(items) // 2
        return {
            "do": "map", "items": items, "at_a_time": rng.choice((None, 1, 2)),
            "tolerate": len(items) if fails else None,
        }  # fmt: skip

    def _scope(self, depth: int) -> Node:
        return {"do": "scope", "name": self.rng.choice(("invoice", "letter")), "part": self.node(depth)}

    def _patched(self, depth: int) -> Node:
        return {
            "do": "patched", "name": self.rng.choice(PATCHES), "new": self.node(depth), "old": self.node(0),
        }  # fmt: skip

    def _flow(self, _depth: int) -> Node:
        rng = self.rng
        self.room -= 4
        value = next(self.values)
        return {
            "do": "flow", "value": value, "pipeline": value % 3 == 0, "asks": value % 4, "way": rng.choice("ab"), "delay": rng.choice((0, 0.02, 2.0)),
            "fails": rng.choice((0, 0, 1, 2)), "nap": rng.choice((0, 0.3, 8.0)), "fail": rng.random() < 0.3,
            "undo": {"fails": rng.choice((0, 0, 2)), "delay": rng.choice((0, 0.5))},
        }  # fmt: skip

    def _tidy(self, depth: int) -> Node:
        return {"do": "tidy", "part": self.node(depth), "last": self._step(0)}


# ------------------------------------------------------------------------------------ what must come out
@dataclass(frozen=True)
class OneOf:
    """Any of these."""

    options: tuple[Any, ...]


@dataclass(frozen=True)
class Bag:
    """These, in any order."""

    parts: tuple[Any, ...]


class Text:
    """Any string: a signal's payload, whose delivery is checked by itself."""


def expected(node: Node) -> Any:  # noqa: C901, PLR0911 - one line for each kind of node
    """The pattern of a node's value when nobody cancels it; what time and chance decide is left open."""
    do = node["do"]
    fixed = {"chance": "chance", "sleep": "slept", "tell": "told", "receive": Text()}
    if do in fixed:
        return fixed[do]
    if do in {"seq", "gather", "group"}:
        return [expected(part) for part in node["parts"]]
    if do == "each":
        return Bag(tuple(expected(part) for part in node["parts"]))
    if do in {"first", "race"}:
        return OneOf(tuple([place, expected(part)] for place, part in enumerate(node["parts"])))
    if do == "timeout":
        return OneOf(("timeout", expected(node["part"])))
    if do == "call":
        return expected(node["part"])
    if do == "spawn":
        return [expected(node["part"]) if node["awaited"] else "not awaited", expected(node["between"])]
    if do == "twice":
        between = expected(node["between"])
        ends = (expected(node["part"]), "child cancelled", "child failed")
        return OneOf(tuple([end, "conflict" if node["other"] else end, between] for end in ends))
    if do == "flow":
        return "child failed" if node["fail"] else [node["value"] * 2 + 1] * (5 if node["pipeline"] else 4)
    if do == "map":
        return [item["value"] * 2 + 1 for item in node["items"] if not item["fails"]]
    if do in {"scope", "tidy"}:
        return expected(node["part"])
    if do == "patched":
        return OneOf((["new", expected(node["new"])], ["old", expected(node["old"])]))
    return _of_step(node)


def _of_step(node: Node) -> Any:
    good = node["value"] * 2 + 1
    if node["do"] == "transaction":
        return -1 if node["fails"] else good
    fails = node.get("fails", 0)
    value = "Flaky" if fails >= node["tries"] else good
    if node.get("once"):
        # Interrupted attempts count, so that fewer are left to succeed in.
        return OneOf(("StepInterrupted", "Flaky" if fails else good, good))
    return OneOf((value, "StepTimedOut")) if node.get("limit") else value


def fits(pattern: Any, value: Any) -> bool:
    """Whether a value is what the pattern allows."""
    if isinstance(pattern, Text):
        return isinstance(value, str)
    if isinstance(pattern, OneOf):
        return any(fits(option, value) for option in pattern.options)
    if isinstance(pattern, Bag):
        return isinstance(value, list) and len(value) == len(pattern.parts) and any(
            all(fits(part, item) for part, item in zip(order, value, strict=True))
            for order in itertools.permutations(pattern.parts)
        )  # fmt: skip
    if isinstance(pattern, list):
        return (
            isinstance(value, list)
            and len(pattern) == len(value)
            and all(fits(part, item) for part, item in zip(pattern, value, strict=True))
        )
    return bool(pattern == value)


def listens(node: Node) -> set[str]:
    """The signals that a program's own run, not its children, may wait for."""
    names = {node["name"]} if node["do"] == "receive" else set()
    below = [*node.get("parts", ()), *(node[part] for part in ("between", "new", "old", "last") if part in node)]
    if node["do"] not in {"call", "spawn", "twice"} and "part" in node:
        below.append(node["part"])
    for part in below:
        names |= listens(part)
    return names
