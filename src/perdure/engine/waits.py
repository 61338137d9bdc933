"""What a run waits for from outside: times, and messages under their topics."""

from __future__ import annotations

from collections import deque

from perdure.engine.machine import Machine
from perdure.engine.request import ChildRequest, ReceiveRequest, Request, StepRequest, TimerRequest
from perdure.model.run import Message

CANCEL = "control:cancel"
PAUSE = "control:pause"


class Waits:
    """
    The requests of one run that a time or a message settles, and the messages that have come.

    Attributes:
        mailbox: Messages that nothing has taken yet, oldest first.
        times: The requests that a time settles, by key, with that time; some may be settled already.
    """

    __slots__ = ("_known", "_topics", "mailbox", "times")

    def __init__(self) -> None:
        self.mailbox: list[Message] = []
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
                self.mailbox.append(message)

    def next_message(self, machine: Machine) -> tuple[Message, Request | None] | None:
        """The first message that can be observed now, with the request that it settles; None for control."""
        for place, message in enumerate(self.mailbox):
            if message.topic in {CANCEL, PAUSE}:
                del self.mailbox[place]
                return message, None
            requests = self._topics.get(message.topic)
            while requests:
                request = requests.popleft()
                if machine.wanted.get(request.key) is request:
                    del self.mailbox[place]
                    return message, request
        return None

    def clear(self) -> None:
        """Forget the messages: the database tells them again when the run is claimed."""
        self.mailbox.clear()
        self._known.clear()

    def _forget_settled(self, machine: Machine) -> None:
        wanted = machine.wanted
        gone = [key for key, (_, request) in self.times.items() if wanted.get(key) is not request]
        for key in gone:
            del self.times[key]
