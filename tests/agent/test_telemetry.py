"""What telemetry shows of a run: nothing of what users said or got, unless somebody says so."""

import asyncio
import json
import re
from contextlib import suppress
from datetime import UTC, datetime

import pytest

from perdure import App, Retry, RunEvent, current_step
from perdure.agent import REDACTED, Disclosure, Summary, sanitised, sse_run_event, telemetry
from perdure.errors import InvalidOption
from perdure.model.entry import Kind
from perdure.testing import run_virtual

SECRET = "the user's own words"  # noqa: S105 - it is none
AT = datetime(2026, 1, 1, tzinfo=UTC)


def event(kind, data):
    return RunEvent(1, kind, "key", AT, data, None, 1)


async def everything(ctx) -> str:
    async def live():
        current_step().emit("tokens", {"text": SECRET})
        return SECRET

    def fail():
        raise ValueError(SECRET)

    await ctx.step("live", live)
    await ctx.emit("progress", {"said": SECRET, "api_key": "k-1"})
    await ctx.annotate("remark", SECRET)
    with suppress(ValueError):
        await ctx.step("fail", fail, retry=Retry(max_attempts=2, delay=1))
    await ctx.receive("answer")
    await ctx.sleep(1)
    await ctx.receive("never")
    return SECRET


@pytest.fixture
def journal(tmp_path):
    """The journal of a run that was told secrets, and cancelled with one."""
    found = []

    async def main(clock):
        app = App(f"sqlite:///{tmp_path / 'telemetry.db'}", clock=clock, synchronous="NORMAL")
        app.workflow(everything)
        async with app:
            run = await app.start("everything", id="r")
            await run.signal("answer", {"text": SECRET, "token": "t-1"})
            await asyncio.sleep(60)  # of virtual time, for all there is to do
            await app.client.pause("r", SECRET)
            await app.client.resume("r")
            await run.cancel(SECRET)
            found.extend([each async for each in run.events()])
            found.append([each async for each in telemetry(run, follow=False)])

    run_virtual(main)
    return found


def test_nothing_is_shown_by_default(journal):
    """X13 X14: what users said, and what they were told, would be in every log and dashboard."""
    *events, streamed = journal
    assert SECRET in json.dumps([each.data for each in events], default=str)
    shown = [sanitised(each) for each in events]
    assert shown == streamed
    text = json.dumps([[each.kind, each.key, each.data] for each in shown], default=str)
    assert SECRET not in text
    assert "k-1" not in text
    assert "t-1" not in text
    kinds = {each.kind for each in shown}
    assert {"step_completed", "step_emitted", "emitted", "annotated", "attempt_failed", "step_failed",
            "signal_received", "paused", "cancel_requested", "timer_set", "cancelled"} <= kinds  # fmt: skip
    by_kind = {each.kind: each.data for each in shown}
    assert by_kind["emitted"] == {"name": "progress", "data": REDACTED}
    assert by_kind["step_emitted"]["topic"] == "tokens"
    assert by_kind["step_failed"]["type"] == "builtins:ValueError"
    assert [(each.seq, each.key, each.at, each.attempt) for each in shown] == [
        (each.seq, each.key, each.at, each.attempt) for each in events
    ]


def test_each_flag_shows_its_own_and_no_more(journal):
    """X13: a flag that is set for one thing would open another."""
    events = journal[:-1]

    def shown(**flags):
        return {
            each.kind for each in events if SECRET in json.dumps(sanitised(each, Disclosure(**flags)).data, default=str)
        }

    assert shown(results=True) == {"step_completed"}
    assert shown(signals=True) == {"signal_received"}
    assert shown(errors=True) == {"attempt_failed", "step_failed", "paused", "cancel_requested"}
    assert shown(events=frozenset({"progress"})) == {"emitted"}
    assert shown(events=frozenset({"remark", "tokens"})) == {"annotated", "step_emitted"}


def test_secrets_are_never_shown(journal):
    """X15: a key that a tool was called with would be shown with everything else."""
    open_to_all = Disclosure(
        results=True, signals=True, errors=True, events=frozenset({"progress", "remark", "tokens"})
    )
    text = json.dumps([sanitised(each, open_to_all).data for each in journal[:-1]], default=str)
    assert SECRET in text
    assert "k-1" not in text
    assert "t-1" not in text
    own = Disclosure(results=True, secrets=re.compile("^card$"))
    assert sanitised(event("step_completed", [{"card": "4111", "cents": 5}]), own).data == [
        {"card": REDACTED, "cents": 5}
    ]


def test_tracebacks_and_fields_are_never_shown():
    """X16: a traceback quotes what it was called with."""
    error = {"type": "m:C", "message": "odd", "traceback": SECRET, "fields": {"body": SECRET}, "args": [SECRET]}
    open_to_errors = Disclosure(errors=True)
    assert sanitised(event("step_failed", error), open_to_errors).data == {"type": "m:C", "message": "odd"}
    failed = {"next_at": 5, "error": error}
    assert sanitised(event("attempt_failed", failed)).data == {
        "error": {"type": "m:C", "message": REDACTED},
        "next_at": 5,
    }


@pytest.mark.parametrize("kind", [*Kind, "a kind of tomorrow"])
def test_what_is_not_known_is_not_shown(kind):
    """A new kind of entry, or an odd one, would be shown because nobody has thought of it."""
    odd = (
        SECRET
        if kind not in {Kind.TIMER_SET, Kind.RECEIVE_STARTED, Kind.CHILD_STARTED, Kind.SKIPPED, Kind.MOVED}
        else None
    )
    assert SECRET not in str(sanitised(event(str(kind), odd)).data)


def test_a_summary_counts(journal):
    """X17: a report would need what must not be shown."""
    summary = Summary()
    for each in journal[:-1]:
        summary.add(each)
    assert summary.ended == "cancelled"
    assert summary.failed_attempts == {"fail": 2}
    assert summary.kinds["step_completed"] == 1
    assert SECRET not in str(summary)


def test_as_server_sent_events(journal):
    """X18: a page would be sent what it must not show, or could not come back to its place."""
    sent = b"".join(sse_run_event(each) for each in journal[:-1]).decode()
    assert SECRET not in sent
    first = sent.split("\n\n")[0].splitlines()
    assert first[:2] == ["id: 1", f"event: {journal[0].kind}"]
    assert json.loads(first[2].removeprefix("data: "))["key"] == journal[0].key


def test_one_name_to_disclose_is_that_one():
    """Events whose names are parts of the disclosed one's would leave the house."""
    disclosure = Disclosure(events="order.shipped")
    for name, shown in (("order.shipped", {"n": 1}), ("order", REDACTED)):
        told = sanitised(event("emitted", {"name": name, "data": {"n": 1}}), disclosure)
        assert told.data == {"name": name, "data": shown}
    with pytest.raises(InvalidOption, match="secrets"):
        Disclosure(secrets="password")
