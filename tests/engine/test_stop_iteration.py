import asyncio

import pytest

from perdure import App, Context, Transaction
from perdure.errors import RunFailed
from perdure.testing.time import run_virtual


def exhausted() -> int:
    return next(iter(()))


def exhausted_transaction(transaction: Transaction) -> int:
    return next(iter(()))


@pytest.mark.parametrize("transactional", [False, True], ids=["thread", "transaction"])
@pytest.mark.parametrize("virtual", [False, True], ids=["real time", "virtual time"])
def test_a_step_that_raises_stop_iteration_fails(transactional, virtual):
    """No future can hold a StopIteration: the run would wait for ever for a step that has ended."""

    async def main(**options):
        app = App("sqlite://", **options)

        @app.workflow
        async def run_out(ctx: Context) -> int:
            if transactional:
                return await ctx.transaction(exhausted_transaction)
            return await ctx.step(exhausted)

        async with app:
            run = await app.start(run_out)
            with pytest.raises(RunFailed, match="StopIteration") as caught:
                await run.result()
        assert isinstance(caught.value.cause, RuntimeError)

    if virtual:
        run_virtual(lambda clock: main(clock=clock))
    else:
        asyncio.run(main())
