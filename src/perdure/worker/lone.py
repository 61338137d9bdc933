"""Runs whose function came with a call of `run_durable`, so that no other worker can drive them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from perdure.engine.definition import LONE, LoneWorkflow
from perdure.engine.drive import Driver
from perdure.model.run import Claimed


class LoneRun:
    """
    A run that a caller has lent its function to this worker for.

    Args:
        told: Called when this worker has given the run up: how, and with which error, as `Observer.left` has it.

    Attributes:
        claims: Whether the worker takes the run whenever it is due.
        number: Its number in the database, once it was driven here.
        over: Set when the caller has taken its function back.
    """

    __slots__ = ("claims", "id", "number", "over", "told", "workflow")

    def __init__(
        self, run_id: str, workflow: LoneWorkflow[..., Any], told: Callable[[str, BaseException | None], None]
    ) -> None:
        self.id = run_id
        self.workflow = workflow
        self.told = told
        self.claims = False
        self.number = 0
        self.over = asyncio.Event()


class LoneRuns:
    """
    Those of one worker, by id; mostly there are none.

    Args:
        claim: Claims those of these ids, a JSON array, that are due, and drives them; tells whether one was.
        driven, parked: The worker's drivers, by the numbers of their runs.
    """

    def __init__(
        self,
        claim: Callable[[str, Callable[[Exception | bool], None]], None],
        driven: dict[int, Driver],
        parked: dict[int, Driver],
    ) -> None:
        self._runs: dict[str, LoneRun] = {}
        self._claim = claim
        self._driven = driven
        self._parked = parked

    def lend(self, lone: LoneRun) -> LoneRun:
        """Drive this run with this function; returns the one that is here already, if any, and changes nothing then."""
        return self._runs.setdefault(lone.id, lone)

    async def claim(self, lone: LoneRun) -> bool:
        """
        Claim this run now, if it is due, and whenever it is from now on; returns whether it was.

        What was claimed is driven, or given back, also when nobody waits for the answer any more.

        Raises:
            StoreError: The database failed.
        """
        lone.claims = True
        claimed: asyncio.Future[Exception | bool] = asyncio.get_running_loop().create_future()
        self._claim(json.dumps([lone.id]), lambda answer: None if claimed.done() else claimed.set_result(answer))
        answer = await claimed
        if isinstance(answer, Exception):
            raise answer
        return answer

    def withdraw(self, lone: LoneRun) -> None:
        """The caller takes its function back; if the run is driven here, its bodies are cancelled."""
        del self._runs[lone.id]
        lone.over.set()
        driver = self._driven.get(lone.number)
        if driver is not None and driver.workflow is lone.workflow:
            driver.host.loop.call_soon(driver.abandon)
        elif (parked := self._parked.pop(lone.number, None)) is not None:
            parked.evict()

    def begin(self, run: Claimed) -> LoneWorkflow[..., Any] | None:
        """The function of a run that is driven from now on; None when its caller has left meanwhile."""
        lone = self._runs.get(run.id)
        if lone is None:
            return None
        lone.number = run.number
        return lone.workflow

    def ids(self) -> str:
        """JSON array of the ids of those to claim, without those that are driven; "" for none."""
        if not self._runs:
            return ""
        wanted = [lone.id for lone in self._runs.values() if lone.claims and lone.number not in self._driven]
        return json.dumps(wanted) if wanted else ""

    def left(self, driver: Driver) -> None:
        """Tell the caller that this driver has given its run up; what nobody lends any more does not stay parked."""
        if driver.run.workflow == LONE:
            lone = self._runs.get(driver.run.id)
            if lone is not None and lone.workflow is driver.workflow:
                lone.told(driver.how, driver.error)
            elif self._parked.pop(driver.run.number, None) is not None:
                # Its caller has taken the function back while it was being parked.
                driver.evict()

    def leave(self) -> None:
        """The worker stops: tell all who still wait."""
        for lone in tuple(self._runs.values()):
            lone.told("released", None)
