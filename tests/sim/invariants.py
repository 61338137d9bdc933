"""What must hold when everything has come to its end: read from the file, and compared with what was seen outside."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tests.sim import outbox, programs, stages, talks
from tests.sim.mirror import Fact, Run, present, rows

from perdure.codec.loaded import name_of
from perdure.engine.definition import LONE
from perdure.errors import StartConflict
from perdure.model.entry import Kind

if TYPE_CHECKING:
    from tests.sim.world import Plan, World

JOURNAL = "select seq, kind, key, at, data, attempt from perdure_journal where run = ? order by seq"


def check(world: World) -> None:
    """Report every invariant that does not hold."""
    world.mirror.refresh()
    world.mirror.check_endings()
    for check_one in (
        _runs,
        _journals,
        _said,
        _turns,
        _signals,
        _families,
        _transactions,
        _bodies,
        _rollbacks,
        _results,
        talks.check,
        outbox.check,
        stages.check,
    ):
        check_one(world)


def _runs(world: World) -> None:
    for run in world.mirror.runs.values():
        if not run.ended:
            world.wrong(f"I8: {run.id} has not ended: {run}")
    for plan in world.plans:
        if plan.started and world.mirror.run(plan.id) is None:
            world.wrong(f"I8: {plan.id} is gone")
    alive = rows(world.mirror.connection, "select number, id from perdure_workers where state = 'alive'")
    living = {process.number for process in world.workers}
    for number, name in alive:
        owned = rows(world.mirror.connection, "select id from perdure_runs where owner = ?", number)
        if owned and number not in living:
            world.wrong(f"I8: the dead worker {name} owns {owned}")


def _journals(world: World) -> None:
    """The file holds what was durable before, without gaps, from the last continue_as_new on."""
    for number, run in world.mirror.runs.items():
        stored = rows(world.mirror.connection, JOURNAL, number)
        stored = [(*row[:4], world.mirror.text(row[4]), row[5]) for row in stored]
        facts = world.mirror.facts[number]
        kept = facts
        for place, fact in enumerate(facts):
            if fact.kind == Kind.CONTINUED:
                kept = facts[place:]
        wanted = [fact[1:] for fact in kept]
        if world.outbox.sinks and len(stored) > len(wanted):
            # What is still to be delivered is kept until the next time.
            wanted = [fact[1:] for fact in facts[-len(stored) :]]
        if stored != wanted:
            world.wrong(f"the journal of {run.id} is not what was written: {stored} instead of {kept}")


def _said(world: World) -> None:
    """What a body emits is in the journal in its order, from its first word on, and all of it before its outcome."""
    for number, facts in world.mirror.facts.items():
        run = world.mirror.runs[number]
        heard: dict[tuple[int, str], int] = {}
        over: set[tuple[int, str]] = set()
        for fact in facts:
            place = fact.round, fact.key
            if fact.kind == Kind.STEP_EMITTED and json.loads(fact.data or "{}")["topic"] == "word":
                word = json.loads(fact.data or "{}")["value"]
                if word not in {0, heard.get(place, -1) + 1} or place in over:
                    world.wrong(f"{run.id} hears {fact} after {heard.get(place)}, over: {place in over}")
                heard[place] = word
            elif fact.kind == Kind.STEP_COMPLETED:
                over.add(place)
                says = world.says.get((run.id, *place), 0)
                if heard.get(place, -1) + 1 != says:
                    world.wrong(f"{run.id}: {fact} is there after {heard.get(place)}, of {says} words")


def _turns(world: World) -> None:
    """A reader who forgets what is void has, when a turn is over, each of its events once and in order."""
    for number, facts in world.mirror.facts.items():
        run = world.mirror.runs[number]
        heard: dict[tuple[int, str], list[tuple[int, int]]] = {}
        for fact in facts:
            place = fact.round, fact.key
            if fact.kind == Kind.STEP_EMITTED:
                told = json.loads(fact.data or "{}")
                if told["topic"] == "event":
                    heard.setdefault(place, []).append((fact.seq, told["value"]["event"]))
                elif told["topic"] == "void":
                    heard[place] = [each for each in heard.get(place, ()) if each[0] < told["value"]["from"]]
            elif fact.kind == Kind.STEP_COMPLETED and (run.id, *place) in world.turns:
                words = [word for _, word in heard.get(place, ())]
                if words != list(range(world.turns[run.id, *place])):
                    world.wrong(f"{run.id}: {fact} is there, and a reader has {words}")


def _signals(world: World) -> None:
    """I9: what was accepted is in exactly one place, in the journal once or in the inbox; what was not, in none."""
    inbox = Counter(
        (run, topic, world.mirror.text(data))
        for run, topic, data in rows(
            world.mirror.connection,
            "select r.id, i.topic, i.data from perdure_inbox i join perdure_runs r on r.number = i.run"
            " where i.taken_seq is null",
        )
    )
    journal = Counter(
        (world.mirror.runs[number].id, fact.data)
        for number, facts in world.mirror.facts.items()
        for fact in present(facts)
        if fact.kind == Kind.SIGNAL_RECEIVED
    )
    _in_order(world)
    under_key: dict[tuple[str, str, str], int] = Counter()
    accepted_keys = set()
    for sent in world.sent:
        data = json.dumps(sent.payload)
        places = inbox[sent.run, f"signal:{sent.name}", data] + journal[sent.run, data]
        fits = {True: places == 1, False: places == 0, None: places <= 1}[sent.accepted]
        if not fits:
            world.wrong(f"I9: {sent} is in {places} places")
        if sent.key is not None:
            under_key[sent.run, sent.name, sent.key] += places
            if sent.accepted:
                accepted_keys.add((sent.run, sent.name, sent.key))
    for key, places in under_key.items():
        if places > 1 or (places == 0 and key in accepted_keys):
            world.wrong(f"I9: of the signals under {key}, {places} are there")


def _in_order(world: World) -> None:
    """Signals of one name are received in the order in which they were durable."""
    for number, messages in world.mirror.messages.items():
        names: dict[str, list[str | None]] = {}
        for topic, data in messages:
            names.setdefault(topic, []).append(data)
        place = {data: index for waiting in names.values() for index, data in enumerate(waiting)}
        received: dict[str, list[int]] = {}
        for fact in present(world.mirror.facts[number]):
            if fact.kind == Kind.SIGNAL_RECEIVED:
                name = fact.key.rpartition("/")[2].partition("#")[0]
                received.setdefault(name, []).append(place[fact.data])
        for name, order in received.items():
            if order != sorted(order):
                world.wrong(f"I9: {world.mirror.runs[number].id} received {name!r} in the order {order}")


def _families(world: World) -> None:
    """Parents and children agree on who there is and how it ended."""
    mirror = world.mirror
    children: dict[int, list[Run]] = {}
    for run in mirror.runs.values():
        if run.parent is not None:
            children.setdefault(run.parent, []).append(run)
    for number, run in mirror.runs.items():
        begun: dict[str, str] = {}
        for fact in mirror.facts[number]:
            if fact.kind == Kind.CHILD_STARTED:
                begun[fact.key] = json.loads(fact.data or "{}")["id"]
            elif fact.kind in {Kind.CHILD_COMPLETED, Kind.CHILD_FAILED}:
                _child_ended(world, run, fact, mirror.run(begun[fact.key]))
        have = {child.id for child in children.get(number, ())}
        want = {
            json.loads(fact.data or "{}")["id"] for fact in mirror.facts[number] if fact.kind == Kind.CHILD_STARTED
        }  # fmt: skip
        if run.status in {"failed", "cancelled"}:
            _asked_to_end(world, run, children.get(number, ()))
        if have != want:
            world.wrong(f"{run.id} has the children {sorted(have)}, and its journal says {sorted(want)}")


def _asked_to_end(world: World, parent: Run, children: Sequence[Run]) -> None:
    """A parent that did not complete asks those of its children to end that have not ended, and are not detached."""
    mirror = world.mirror
    last = {number: place for place, number in enumerate(mirror.ends)}
    order = last[parent.number]
    for child in children:
        if child.detached or last[child.number] < order:
            continue
        seen = any(fact.kind == Kind.CANCEL_REQUESTED for fact in mirror.facts[child.number])
        told = "select 1 from perdure_inbox where run = ? and topic = 'control:cancel'"
        if not seen and not rows(mirror.connection, told, child.number):
            world.wrong(f"{parent.id} is {parent.status}, and its child {child.id} was not asked to end")


def _child_ended(world: World, parent: Run, fact: Fact, child: Run | None) -> None:
    if fact.kind == Kind.CHILD_FAILED and (fact.data or "").startswith(f'{{"type":"{name_of(StartConflict)}"'):
        return  # the call was refused; which ones may be, the program's result says
    if child is None or not child.ended:
        world.wrong(f"{parent.id} saw the end of a child that has not ended: {fact}, {child}")
    elif (child.status == "completed") != (fact.kind == Kind.CHILD_COMPLETED):
        world.wrong(f"{parent.id} saw its child {child.id} end as {fact}, and it is {child.status}")
    elif (end := world.mirror.text(child.output or child.error)) != fact.data:
        world.wrong(f"{parent.id} got {fact.data} from its child {child.id}, whose end is {end}")


def _transactions(world: World) -> None:
    """A transaction's row is there exactly if its step completed."""
    stored = Counter(rows(world.mirror.connection, "select run, round, key from sim_rows"))
    completed: Counter[tuple[Any, ...]] = Counter()
    for (number, round_, key), fact in world.mirror.outcomes.items():
        if fact.kind == Kind.STEP_COMPLETED and key.rpartition("/")[2].partition("#")[0] == "insert":
            completed[world.mirror.runs[number].id, round_, key] += 1
    if stored != completed:
        world.wrong(f"rows without their step {stored - completed}, steps without their row {completed - stored}")


def _bodies(world: World) -> None:
    """No outcome without a body that had it; without faults every attempt is made once."""
    mirror = world.mirror
    for (number, round_, key), fact in mirror.outcomes.items():
        if fact.kind != Kind.STEP_COMPLETED:
            continue
        place = (mirror.runs[number].id, round_, key, fact.attempt or 1)
        value = json.loads(fact.data or "null")
        if isinstance(value, int) and value not in world.ends.get(place, ()):
            world.wrong(f"{place} is recorded as {value}, and its body returned {world.ends.get(place)}")
    for place, names in world.bodies.items():
        number = mirror.numbers[place[0]]
        if len(names) > 1 and (number, place[1], place[2], place[3]) in mirror.begun:
            world.wrong(f"{place} may run at most once, and was begun by {names}")
        # A caller of run_durable that hangs up cancels its bodies.
        if len(names) > 1 and not world.chaos.schedule and mirror.runs[number].workflow != LONE:
            world.wrong(f"nothing went wrong, and {place} was begun by {names}")


def _rollbacks(world: World) -> None:
    """What a run did is undone once if the run failed or was cancelled, in reverse order, and not at all if it completed."""
    mirror = world.mirror
    for number, run in mirror.runs.items():
        last = mirror.rounds[number]
        done = [fact for fact in mirror.facts[number] if fact.round == last and fact.kind == Kind.STEP_COMPLETED]
        undone = [fact.key for fact in done if fact.key.endswith("#compensate")]
        wanted = [
            f"{fact.key}#compensate" for fact in reversed(done) if (run.id, last, fact.key) in world.undoable
        ]  # fmt: skip
        kinds = {fact.kind for fact in mirror.facts[number] if fact.round == last}
        unasked = run.status == "cancelled" and run.workflow != "play" and Kind.COMPENSATING not in kinds
        if run.status == "completed" or unasked:
            wanted = []
        if run.workflow != "play":
            undone, wanted = sorted(undone), sorted(wanted)
        if undone != wanted:
            world.wrong(f"{run.id} is {run.status}; undone is {undone}, and it should be {wanted}")


def _results(world: World) -> None:
    for plan in world.plans:
        run = world.mirror.run(plan.id)
        if run is None or not run.ended:
            continue
        for kind, value in plan.seen:
            told = kind == "completed"
            if told != (run.status == "completed") or (
                told and json.dumps(value) != _plain(world.mirror.text(run.output))
            ):
                world.wrong(f"a caller got {kind} {value} of {run.id}, which is {run.status} with {run.output}")
        problem = _unexpected(world, plan, run)
        if problem:
            world.wrong(f"{run.id} is {run.status} with {run.output or run.error}: {problem}")


def _plain(text: str | None) -> str:
    return json.dumps(json.loads(text or "null"))


def _unexpected(world: World, plan: Plan, run: Run) -> str:
    """What is wrong about how a run ended; empty when nothing is."""
    part = plan.job["part"]
    kinds = {fact.kind for fact in world.mirror.facts[run.number]}
    if run.status == "cancelled":
        return "" if plan.cancelled and Kind.CANCEL_REQUESTED in kinds else "nobody cancelled it"
    meant_to_fail = part["parts"][-1:] and part["parts"][-1]["do"] == "fail"
    if run.status == "failed":
        if Kind.DEADLINE_REACHED in kinds or plan.cancelled:
            return "" if plan.timeout or plan.cancelled else "it had no deadline"
        error = world.mirror.text(run.error) or ""
        return "" if meant_to_fail and "meant to fail" in error else f"it was not meant to fail: {error}"
    if meant_to_fail:
        return "it was meant to fail"
    if plan.cancelled or plan.timeout:
        return ""
    value = json.loads(world.mirror.text(run.output) or "null")
    pattern = programs.expected(part)
    return "" if programs.fits(pattern, value) else f"its program should return {pattern}"
