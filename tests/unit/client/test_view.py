"""Rows as callers see them: times with a zone, payloads as plain data, nothing lost."""

import json
from dataclasses import fields
from datetime import UTC, datetime

import pytest

from perdure.client.view import RunInfo, run_event, run_info, worker_info
from perdure.codec.payload import Payloads
from perdure.model.entry import Entry, Kind
from perdure.model.limits import Limits
from perdure.model.run import RunRow, WorkerRow
from perdure.model.status import TERMINAL, Status

AT = 1_750_000_000_000_000
MOMENT = datetime(2025, 6, 15, 15, 6, 40, tzinfo=UTC)
ROW = RunRow(*range(len(RunRow._fields)))._replace(
    id="a", workflow="w", status="waiting", created_at=AT, started_at=AT, finished_at=None, deadline_at=None, due_at=AT,
    waiting_for='["signal:go", "child:a/c"]', reason=None, forked_from="b@3", input="1", rank=None,
)  # fmt: skip


def test_a_run_is_shown_as_it_is():
    """A caller would see another run, or its times in the wrong place."""
    info = run_info(ROW)
    same = {field.name for field in fields(RunInfo)} - {
        "status",
        "waiting_for",
        "reason",
        "in_line",
        "version",
        "stuck",
    }
    times = {name for name in same if name.endswith("_at")}
    for name in same - times:
        assert getattr(info, name) == getattr(ROW, name), name
    for name in times:
        assert getattr(info, name) == (None if getattr(ROW, name) is None else MOMENT), name
    assert info.status is Status.WAITING
    assert info.waiting_for == ["signal:go", "child:a/c"]
    assert info.reason is None
    assert (info.in_line, run_info(ROW._replace(rank=5)).in_line) == (False, True)
    assert (info.version, info.stuck) == ("", "")
    pinned = run_info(ROW._replace(workflow="w@1.2"))
    assert (pinned.workflow, pinned.version) == ("w", "1.2")


def test_what_a_run_does_not_have_is_empty():
    """A caller would have to tell null from an empty list."""
    assert run_info(ROW._replace(waiting_for=None)).waiting_for == []


def test_a_reason_is_plain_data():
    """A caller would have to parse why a run is paused, or to know in which unit the time is."""
    reason = {"code": "divergence", "seq": 3, "message": "größe", "at": AT}
    assert run_info(ROW._replace(status="paused", reason=json.dumps(reason))).reason == reason | {"at": MOMENT}


@pytest.mark.parametrize(("kind", "stored", "shown"), [
    (Kind.TIMER_SET, AT, MOMENT),
    (Kind.TIMER_SET, MOMENT.isoformat(), MOMENT),
    (Kind.RECEIVE_STARTED, AT, MOMENT),
    (Kind.PAUSED, {"code": "operator", "at": AT}, {"code": "operator", "at": MOMENT}),
    (Kind.STEP_COMPLETED, AT, AT),
])  # fmt: skip
def test_times_in_entries_are_datetimes(kind, stored, shown):
    """Whoever watches a run would see a timer as a number of sixteen digits."""
    assert run_event(Entry(1, kind, "k", AT, json.dumps(stored)), Payloads(None, Limits())).data == shown


def test_a_wait_without_a_timeout_has_no_time():
    """A wait for ever would look as if it had an end."""
    assert run_event(Entry(1, Kind.RECEIVE_STARTED, "k", AT), Payloads(None, Limits())).data is None


@pytest.mark.parametrize("status", Status)
def test_a_run_with_an_end_is_finished(status):
    """Somebody would wait for a run that has ended."""
    ended = AT if status in TERMINAL else None
    assert run_info(ROW._replace(status=str(status), finished_at=ended)).finished is (status in TERMINAL)


@pytest.mark.parametrize("value", [None, 1, "text", [1, {"x": None}], {"größe": 1.5}])
def test_an_entrys_payload_is_plain_data(value):
    """Whoever watches a run would get JSON text in place of values."""
    event = run_event(Entry(3, Kind.STEP_COMPLETED, "s", AT, json.dumps(value), AT, 2, "f"), Payloads(None, Limits()))
    assert (event.seq, event.kind, event.key, event.at, event.data) == (3, "step_completed", "s", MOMENT, value)
    assert (event.started_at, event.attempt) == (MOMENT, 2)
    assert type(event.kind) is str


def test_an_entry_without_payload_has_none():
    """A mark in the journal could not be shown."""
    event = run_event(Entry(1, "paused", "", AT), Payloads(None, Limits()))
    assert (event.data, event.started_at, event.attempt) == (None, None, None)


def test_a_worker_is_shown_as_it_is():
    """An operator would take a dead worker for a live one."""
    info = worker_info(WorkerRow(4, "w", "host", "place", 7, '["v", "w"]', "alive", AT, AT, AT + 1_000_000, 3))
    assert (info.id, info.number, info.host, info.pid, info.state, info.owned) == ("w", 4, "host", 7, "alive", 3)
    assert info.workflows == ["v", "w"]
    assert (info.lease_until - info.heartbeat_at).total_seconds() == 1
    assert info.started_at == MOMENT
