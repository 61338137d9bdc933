"""What a run waits for from outside: times, and messages under their topics."""

from __future__ import annotations

from collections import deque

from perdure.engine.machine import Machine
from perdure.engine.outcome import child_end
from perdure.engine.request import (
    ChildRequest,
    ChildStart,
    ReceiveRequest,
    Request,
    StepRequest,
    TimerRequest,
    child_topic,
)
from perdure.model.entry import Kind
from perdure.model.run import Message

CANCEL = "control:cancel"
PAUSE = "control:pause"
CHILD = child_topic("")


class Waits:
    """
    The requests of one run that a time or a message settles, and the messages that have come.

    Attributes:
        mailbox: Messages that nothing has taken yet, oldest first.
        asked: The topics of children of which is being found out who has their id, by the key of the call.
        times: The requests that a time settles, by key, with that time; some may be settled already.
    """

    __slots__ = ("_known", "_topics", "asked", "mailbox", "times")

    def __init__(self) -> None:
        self.mailbox: list[Message] = []
        self.asked: dict[str, str] = {}
        self._known: set[int] = set()
        self.times: dict[str, tuple[int, Request]] = {}
        self._topics: dict[str, deque[ReceiveRequest | ChildRequest]] = {}

    def add(self, request: Request) -> None:
        """Expect what settles this request."""
        if isinstance(request, TimerRequest):
            self.times[request.key] = (request.at, request)
        elif isinstance(request, StepRequest):
            if request.retry_at is not None:
                self.times[request.key] = (request.retry_at, request)
        elif isinstance(request, ReceiveRequest | ChildRequest):
            self._topics.setdefault(request.topic, deque()).append(request)
            if isinstance(request, ReceiveRequest) and request.until is not None:
                self.times[request.key] = (request.until, request)

    def first_time(self, machine: Machine) -> int | None:
        """When the earliest of them is due."""
        self._forget_settled(machine)
        return min((at for at, _ in self.times.values()), default=None)

    def due(self, machine: Machine, now: int) -> list[Request]:
        """Those whose time has come, earliest first; they are no longer expected by time."""
        self._forget_settled(machine)
        due = sorted((at, place) for place, (at, _) in enumerate(self.times.values()) if at <= now)
        keys = list(self.times)
        return [self.times.pop(keys[place])[1] for _, place in due]

    def topics(self, machine: Machine) -> list[str]:
        """The topics that are waited for."""
        wanted = machine.wanted
        for topic, requests in tuple(self._topics.items()):
            live = deque(request for request in requests if wanted.get(request.key) is request)
            if live:
                self._topics[topic] = live
            else:
                del self._topics[topic]
        return list(self._topics)

    def deliver(self, messages: list[Message]) -> None:
        """Messages have come; those that are known already are left out."""
        for message in messages:
            # What the inbox does not hold has no id.
            if not message.id or message.id not in self._known:
                self._known.add(message.id)
                self._put(message)

    def ask(self, child: ChildStart) -> bool:
        """It is to be found out who has this child's id; False when that is under way."""
        new = child.key not in self.asked
        self.asked[child.key] = child_topic(child.child_id)
        return new

    def answered(self, key: str, message: Message | None) -> None:
        """Who has the id is known, and this is to be told to the call; None when a message will come, or has."""
        topic = self.asked.pop(key, None)
        # The end of one of our own may have been told by now: then all of its calls have it from there.
        told = any(other.topic == topic and other.key is None for other in self.mailbox)
        if message is not None and (message.child_id is None or not told):
            self._put(message)

    def next_message(self, machine: Machine, starting: list[ChildStart]) -> tuple[Message, list[Request]] | None:
        """
        The first message that can be observed now, with the requests that it settles; none for control.

        Args:
            starting: Starts that are being committed: the answer tells whose run has the id.
        """
        asked = set(self.asked.values())
        asked.update(child_topic(child.child_id) for child in (*machine.children, *starting) if child.chosen)
        for place, message in enumerate(self.mailbox):
            found = [] if message.topic in asked and message.key is None else self._settled_by(message, machine)
            if found or message.topic in {CANCEL, PAUSE}:
                del self.mailbox[place]
                return message, found
        return None

    def _put(self, message: Message) -> None:
        # What is for one call of a child comes before the end that is for all of them.
        first = message.key is not None and message.topic.startswith(CHILD)
        self.mailbox.insert(0 if first else len(self.mailbox), message)

    def _settled_by(self, message: Message, machine: Machine) -> list[Request]:
        """A signal is for the first who asked, a child's end for all who wait for it; with a key, for that call."""
        requests, wanted, found = self._topics.get(message.topic), machine.wanted, list[Request]()
        if not requests:
            return found
        if not isinstance(requests[0], ChildRequest):
            while requests and not found:
                request = requests.popleft()
                if wanted.get(request.key) is request:
                    found.append(request)
        elif message.key is not None:
            found += [request for request in requests if request.key == message.key]
        else:
            found += requests
            requests.clear()
        return [request for request in found if wanted.get(request.key) is request]

    def clear(self) -> None:
        """Forget the messages: the database tells them again when the run is claimed."""
        self.mailbox.clear()
        self._known.clear()

    def _forget_settled(self, machine: Machine) -> None:
        wanted = machine.wanted
        gone = [key for key, (_, request) in self.times.items() if wanted.get(key) is not request]
        for key in gone:
            del self.times[key]


def settle(machine: Machine, message: Message, requests: list[Request], now: int) -> None:
    """Deliver a message to those whom it settles, one after the other: each outcome may do away with the rest."""
    for request in requests:
        if machine.wanted.get(request.key) is not request or machine.divergence is not None or machine.done:
            continue
        if isinstance(request, ChildRequest):
            kind, data, decoded = child_end(message, request.child_id, machine.payloads)
            machine.outcome(kind, request.key, now, data, decoded=decoded)
        else:
            machine.outcome(Kind.SIGNAL_RECEIVED, request.key, now, message.data)
