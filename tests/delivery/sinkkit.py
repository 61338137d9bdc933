"""Sinks that note what they get, and apps that have some."""

import asyncio

from perdure import Context, Retry
from perdure.model.event import Event

QUICK = Retry(max_attempts=3, delay=1, backoff=2, jitter=0)


async def ship(ctx: Context, order: str) -> str:
    await ctx.emit("order.packed", {"order": order})
    await ctx.step("label", lambda: "a label")
    await ctx.emit("mail", "sent")
    return f"{order} shipped"


class Ledger:
    """A sink that notes what it gets."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.refuse = {}
        """Errors to raise, by what is refused."""
        self.slow = 0.0

    async def __call__(self, event: Event) -> None:
        if self.slow:
            await asyncio.sleep(self.slow)
        error = self.refuse.get(event.run_id) or self.refuse.get((event.run_id, event.seq))
        self.events.append(event)
        if error is not None:
            raise error

    def of(self, run_id: str) -> list[str]:
        return [event.topic or event.kind for event in self.events if event.run_id == run_id]


def lives(office, *workflows, sinks, worker=None):
    """An app with these sinks: name → (target, options)."""
    app = office.app(*workflows, worker=worker)
    for name, (target, options) in sinks.items():
        app.sink(name, target, **{"retry": QUICK, **options})
    return app
