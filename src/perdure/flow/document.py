"""Read a flow from a document: YAML or JSON, with functions named by the names that they are registered under."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from perdure.engine.machine import MISSING
from perdure.errors import InvalidOption, PerdureError
from perdure.flow.builder import Entry, Flow
from perdure.model.retry import Retry

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")
_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
Span = float | str


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class _Options(_Strict):
    """The options of whatever is run."""

    retry: dict[str, Any] | None = None
    timeout: Span | None = None
    total_timeout: Span | None = None
    at_most_once: bool | None = None
    compensate: str | None = None


class _Run(_Options):
    run: str
    given: str | None = None


class _Step(_Run):
    step: str
    when: str | None = None


class _Parallel(_Options):
    parallel: str
    entries: dict[str, str | _Run]
    when: str | None = None


class _Route(_Options):
    route: str
    by: str
    branches: dict[str, str | _Run]
    otherwise: str | _Run | None = None
    when: str | None = None


class _Loop(_Options):
    loop: str
    run: str
    max_iterations: int
    until: str | None = None
    feedback: str | None = None
    first: str | None = None
    when: str | None = None


class _Sleep(_Strict):
    sleep: str
    span: Span = Field(alias="for")
    when: str | None = None


class _Signal(_Strict):
    signal: str
    name: str | None = None
    type: str | None = None
    timeout: Span | None = None
    default: Any = MISSING
    when: str | None = None


class _Child(_Strict):
    child: str
    workflow: str
    given: str | None = None
    compensate: str | None = None
    when: str | None = None


_KINDS: dict[str, type[_Strict]] = {
    "step": _Step, "parallel": _Parallel, "route": _Route, "loop": _Loop, "sleep": _Sleep, "signal": _Signal,
    "child": _Child,
}  # fmt: skip


class _Document(_Strict):
    flow: str
    nodes: list[dict[str, Any]]
    input: str | None = None
    output: str | None = None


def load_flow(document: Mapping[str, Any] | str | Path, functions: Mapping[str, Any]) -> Flow:
    """
    Make a flow of a document.

    Args:
        document: A mapping; a text in YAML or JSON; or the path of a file with one. YAML needs ``perdure[yaml]``.
        functions: What the document's names stand for: functions, steps, workflows, flows, and types.

    Raises:
        InvalidOption: The document is no flow; the message names what is wrong with each of its nodes.
    """
    reader = _Reader(functions)
    try:
        whole = _Document.model_validate(_read(document))
    except ValidationError as error:
        what, problem = "flow document", _told(error)
        raise InvalidOption(what, problem) from None
    given = Any if whole.input is None else reader.named(whole.input, "input")
    try:
        flow = Flow(whole.flow, input=given, output=reader.function(whole.output, "output"))
    except PerdureError as error:
        reader.problems.append(str(error))
        flow = Flow("unnamed")
    for place, fields in enumerate(whole.nodes):
        flow = reader.node(flow, fields, f"nodes.{place}")
    if reader.problems:
        what = f"flow {whole.flow!r}"
        raise InvalidOption(what, "; ".join(reader.problems))
    return flow


def _read(document: Mapping[str, Any] | str | Path) -> Any:
    if isinstance(document, Mapping):
        return document
    text = document.read_text(encoding="utf-8") if isinstance(document, Path) else document
    if text.lstrip().startswith("{"):
        try:
            return json.loads(text)
        except ValueError as error:
            what, problem = "flow document", f"it begins like JSON, but is none: {error}"
            raise InvalidOption(what, problem) from None
    try:
        import yaml  # noqa: PLC0415 - an extra, which who writes JSON need not have
    except ImportError:
        what, problem = "flow document", "YAML needs an extra: pip install 'perdure[yaml]'; or write it as JSON"
        raise InvalidOption(what, problem) from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        what, problem = "flow document", f"it is no YAML: {error}"
        raise InvalidOption(what, problem) from None


def _told(error: ValidationError) -> str:
    return "; ".join(f"{'.'.join(map(str, found['loc']))}: {found['msg']}" for found in error.errors())


class _Reader:
    """
    Makes nodes of a document's parts.

    Attributes:
        problems: What is wrong, in words.
    """

    def __init__(self, functions: Mapping[str, Any]) -> None:
        self.problems: list[str] = []
        self._functions = functions

    def node(self, flow: Flow, fields: dict[str, Any], place: str) -> Flow:
        """The flow with one more node; as it is if there is something wrong with that."""
        kinds = [kind for kind in _KINDS if kind in fields and isinstance(fields[kind], str)]
        # A signal's field `signal` and a child's `child` are kinds; no kind has a field that is another kind.
        if len(kinds) != 1:
            self.problems.append(f"{place}: it must have exactly one of {', '.join(_KINDS)}, with its name")
            return flow
        try:
            node = _KINDS[kinds[0]].model_validate(fields)
            before = len(self.problems)
            made = getattr(self, f"_{kinds[0]}")(flow, node, f"{place} ({fields[kinds[0]]})")
        except ValidationError as error:
            self.problems.append(f"{place}: {_told(error)}")
        except PerdureError as error:
            self.problems.append(f"{place}: {error}")
        else:
            if len(self.problems) == before:
                added: Flow = made
                return added
        return flow

    def named(self, name: str, place: str) -> Any:
        """What a name stands for; something that fits anywhere if it stands for nothing."""
        if name not in self._functions:
            self.problems.append(f"{place}: there is no {name!r} among the functions")
            return _anything
        return self._functions[name]

    def function(self, name: str | None, place: str) -> Any:
        """The same for a name that may be left out."""
        return None if name is None else self.named(name, place)

    def _options(self, options: _Options, place: str) -> dict[str, Any]:
        found: dict[str, Any] = {
            "timeout": self._span(options.timeout, place), "total_timeout": self._span(options.total_timeout, place),
            "at_most_once": options.at_most_once, "compensate": self.function(options.compensate, place),
            "retry": None if options.retry is None else self._retry(options.retry, place),
        }  # fmt: skip
        return {option: value for option, value in found.items() if value is not None}

    def _retry(self, fields: dict[str, Any], place: str) -> Retry | None:
        known = {"max_attempts", "delay", "backoff", "cap", "jitter"}
        if unknown := fields.keys() - known:
            self.problems.append(f"{place}: retry has no {', '.join(sorted(unknown))}")
            return None
        options: dict[str, Any] = dict(fields)
        options |= {option: self._span(fields[option], place) for option in ("delay", "cap") if option in fields}
        return Retry(**options)

    def _span(self, span: Span | None, place: str) -> float | timedelta | None:
        if not isinstance(span, str):
            return span
        found = _SPAN.fullmatch(span.strip())
        if found is None:
            self.problems.append(f"{place}: {span!r} is no span of time, such as 90, 30s, 5m, 2h or 7d")
            return None
        return timedelta(seconds=float(found[1]) * _UNITS[found[2]])

    def _entry(self, entry: str | _Run, place: str) -> Entry:
        if isinstance(entry, str):
            return Entry(self.named(entry, place))
        given = self.function(entry.given, place)
        return Entry(self.named(entry.run, place), given=given, **self._options(entry, place))

    def _step(self, flow: Flow, node: _Step, place: str) -> Flow:
        return flow.step(
            node.step, self.named(node.run, place), given=self.function(node.given, place),
            when=self.function(node.when, place), **self._options(node, place),
        )  # fmt: skip

    def _parallel(self, flow: Flow, node: _Parallel, place: str) -> Flow:
        entries = {name: self._entry(entry, f"{place}.{name}") for name, entry in node.entries.items()}
        when = self.function(node.when, place)
        return flow.parallel(node.parallel, entries, when=when, **self._options(node, place))

    def _route(self, flow: Flow, node: _Route, place: str) -> Flow:
        return flow.route(
            node.route, self.named(node.by, place),
            {name: self._entry(branch, f"{place}.{name}") for name, branch in node.branches.items()},
            otherwise=None if node.otherwise is None else self._entry(node.otherwise, f"{place}.otherwise"),
            when=self.function(node.when, place), **self._options(node, place),
        )  # fmt: skip

    def _loop(self, flow: Flow, node: _Loop, place: str) -> Flow:
        decide = {option: self.function(getattr(node, option), place) for option in ("until", "feedback", "first")}
        return flow.loop(
            node.loop, self.named(node.run, place), max_iterations=node.max_iterations, **decide,
            when=self.function(node.when, place), **self._options(node, place),
        )  # fmt: skip

    def _sleep(self, flow: Flow, node: _Sleep, place: str) -> Flow:
        return flow.sleep(node.sleep, self._span(node.span, place) or 0, when=self.function(node.when, place))

    def _signal(self, flow: Flow, node: _Signal, place: str) -> Flow:
        return flow.signal(
            node.signal, node.name, type=Any if node.type is None else self.named(node.type, place),
            timeout=self._span(node.timeout, place), default=node.default, when=self.function(node.when, place),
        )  # fmt: skip

    def _child(self, flow: Flow, node: _Child, place: str) -> Flow:
        return flow.child(
            node.child, self._functions.get(node.workflow, node.workflow), given=self.function(node.given, place),
            compensate=self.function(node.compensate, place), when=self.function(node.when, place),
        )  # fmt: skip


def _anything(*_args: Any) -> None:
    """Stands for what is not there, until that is told."""
