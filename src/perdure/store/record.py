"""What a driver writes: entries of its run and, with them, the run's next state (I1, I4)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

from perdure.model.entry import Entry
from perdure.model.queue import NO_TERMS, Terms
from perdure.model.run import End, Message
from perdure.model.status import Status
from perdure.store.operation import Operation

PARENT_ENDED = json.dumps("the parent run has ended")


class Record(Operation):
    """
    One commit of a driver.

    Every statement names the run's epoch, so that a driver that lost the run changes nothing; then a row
    labelled "stale" comes back.
    """

    __slots__ = ("epoch", "id", "inline_bytes", "number", "queued")

    def __init__(self, number: int, run_id: str, epoch: int, inline_bytes: int) -> None:
        # Spelt out, as it is made for every step.
        self.lines = [("fence", (number, epoch))]
        self.changed = {number}
        self.makes_due = False
        self.end = None
        self.body = None
        self.number = number
        self.id = run_id
        self.epoch = epoch
        self.inline_bytes = inline_bytes
        # Whether the run holds a slot of a queue, which others wait for when it gives it back.
        self.queued = False

    def entries(self, entries: Iterable[Entry]) -> None:
        """Append these to the journal."""
        number, epoch, most = self.number, self.epoch, self.inline_bytes
        for entry in entries:
            if entry.data is not None and len(entry.data) > most:
                entry = entry._replace(data=shelve(self, self.id, entry.data))  # noqa: PLW2901 - the same, shelved
            self.lines.append(("append", (number, epoch, *entry)))

    def take(self, message: Message, seq: int) -> None:
        """The workflow has observed this message (I9)."""
        if message.key is None:
            self.add("take", self.number, self.epoch, message.id)
        else:
            self.add("take_keyed", self.number, self.epoch, message.id, seq)

    def park(self, due_at: int | None, topics: list[str], now: int) -> None:
        """Give up the run until a time or a message; a message that is there already makes it due at once."""
        self.add("park", self.number, self.epoch, due_at, json.dumps(topics), now)
        self.makes_due = True

    def clear_suspicion(self) -> None:
        """The run has made progress: it is not what kills workers, and others that wait for that may go on."""
        self.add("clear_suspicion", self.number, self.epoch)
        self.makes_due = True

    def compensate(self) -> None:
        """What the run did is undone from here on."""
        self.add("compensate", self.number, self.epoch)

    def pause(self, reason: str, heeded_at: int | None = None) -> None:
        """
        Put the run aside until an operator resumes it.

        Args:
            heeded_at: Now, if it is to end instead should somebody have asked for that meanwhile; None if it cannot.
        """
        self.add("pause_own", self.number, self.epoch, reason)
        if heeded_at is not None:
            self.add("cancel_paused", self.number, self.epoch + 1, heeded_at)
        self.makes_due = self.makes_due or self.queued or heeded_at is not None

    def release(self, now: int) -> None:
        """Give the run back, due now."""
        self.add("release", self.number, self.epoch, now)
        self.makes_due = True

    def renew(self, payload: str, seq: int, now: int) -> None:
        """Begin again with other input: forget the journal before `seq`."""
        if len(payload) > self.inline_bytes:
            payload = shelve(self, self.id, payload)
        self.add("renew", self.number, self.epoch, payload)
        self.add("forget", self.number, self.epoch, seq)
        self.add("forget_refs", self.number, self.epoch)
        self.release(now)

    def finish(
        self, status: Status, output: str | None, error: str | None, now: int, *, children: str = PARENT_ENDED
    ) -> None:
        """End the run; unless it completed, its children are asked to end too, with this message."""
        if output is not None and len(output) > self.inline_bytes:
            output = shelve(self, self.id, output)
        if error is not None and len(error) > self.inline_bytes:
            error = shelve(self, self.id, error)
        self.end = End(status.value, output, error)
        self.makes_due = self.makes_due or self.queued
        self.add("finish", self.number, self.epoch, status.value, output, error, now)
        if status is not Status.COMPLETED:
            self.add("ask_children", self.number, self.epoch, children, now)
            self.add("cancel_children", self.number, self.epoch, now)
            self.makes_due = True

    def tell_parent(self, parent: int, topic: str, status: Status, now: int) -> None:
        """Leave the parent a message, and wake it if it waits for this."""
        self.add("notify_parent", self.number, self.epoch, status.value, topic, now)
        self.add("wake", parent, topic, now)
        self.makes_due = True

    def start_child(
        self,
        child_id: str,
        workflow: str,
        payload: str,
        *,
        seed: int,
        now: int,
        deadline_at: int | None,
        detached: bool,
        tags: Iterable[str],
        terms: Terms = NO_TERMS,
    ) -> None:
        """Insert a child run, due now; by the terms of a queue it stands in line instead."""
        if len(payload) > self.inline_bytes:
            payload = shelve(self, child_id, payload)
        self.add(
            "start_child", child_id, workflow, payload, seed, now, deadline_at, int(detached), self.number, self.epoch
        )
        for tag in tags:
            self.add("add_tag", child_id, tag)
        if terms.queue:
            self.add("enter_queue", child_id, terms.queue, terms.key, terms.priority, terms.weight, self.number)
        self.makes_due = True

    def cancel(self, run_id: str, reason: str, now: int) -> None:
        """Ask another run to end."""
        self.add("ask_child", run_id, self.number, self.epoch, reason, now)
        self.add("cancel_child", run_id, self.number, self.epoch, now)
        self.makes_due = True


def shelve(operation: Operation, run_id: str, data: str) -> str:
    """Put a large payload on the shelf of blobs; returns its name, which is stored in its place."""
    # Not for secrecy: the content's own name.
    name = hashlib.sha256(data.encode()).hexdigest()
    operation.add("add_blob", name, len(data), data)
    operation.add("add_blob_ref", run_id, name)
    return f"@{name}"


def appended(operation: Operation) -> list[Entry] | None:
    """What an operation appends to its run's journal; None if it does anything else, such as to shelve a payload."""
    found: list[Entry] = []
    for name, parameters in operation.lines:
        if name == "append":
            found.append(Entry(*parameters[2:]))
        elif name != "fence":
            return None
    return None if operation.body is not None else found or None
