"""Pipelines whose worker is killed at each of their commits."""

import asyncio
from typing import Any

import pytest

from perdure import App, Batch, Pending, Pipeline, StageContext
from perdure.testing.kit import Kit

app = App("sqlite:////nowhere/pipelines.db")
done: list[str] = []


async def work(stage: StageContext[Any, None]) -> str:
    done.append(stage.id)
    await asyncio.sleep(1)
    return f"{stage.id} of {stage.input}"


class Service:
    """Knows batches by the keys that they were submitted under, as services do that do not want to be paid twice."""

    batches: dict[str, int] = {}  # noqa: RUF012 - the service outlives the processes that are killed

    def submit(self, stage: StageContext[Any, None]) -> str:
        self.batches.setdefault(stage.idempotency_key, 0)
        return stage.idempotency_key

    def check(self, stage: StageContext[Any, None], batch: str) -> list[str] | Pending:
        self.batches[batch] += 1
        return [batch] if self.batches[batch] >= 3 else Pending()


service = Service()
PIPELINE = app.pipeline(
    Pipeline("p", input=int)
    .stage("a", work)
    .parallel({"b": work, "batch": Batch(service.submit, service.check), "c": work})
    .parallel({"d": work, "e": work}, distribute=True)
    .stage("f", work)
)


@pytest.fixture
def kit(tmp_path):
    with Kit(app, tmp_path) as kit:
        yield kit


def before() -> None:
    done.clear()
    service.batches.clear()


def observe() -> list[Any]:
    """What was done, once each, and the batches that were paid for."""
    return [sorted(set(done)), sorted(service.batches)]


def test_a_pipeline_bears_every_crash(kit):  # A018 A025 A041 W03 W08 W09
    """A crash at any commit, between groups, at fan-in or while a batch is waited for, loses or buys something."""
    report = kit.crash_everywhere(PIPELINE, 7, before=before, observe=observe)
    assert report.kills > 15
    assert len(service.batches) == 1
