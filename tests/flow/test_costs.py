"""What a flow writes."""

import pytest

from perdure import Flow


@pytest.mark.parametrize("steps", [1, 10])
def test_one_step_is_one_commit(lab, steps):  # W19
    """A flow writes more than the workflow that it replaces, or more often."""
    flow = Flow("f")
    for number in range(steps):
        flow = flow.step(f"s{number}", lambda: 1)

    async def main():
        async with lab.worker(flow) as app:
            await (await app.start("f", None, id="warm")).result()
            before = app.client.store.commits
            await (await app.start("f", None, id="r")).result()
            # That of the start, and one for each step, the last with the end.
            assert app.client.store.commits - before == 1 + steps
            kinds = [event.kind for event in await lab.journal(app, "r")]
            assert kinds == ["step_completed"] * steps + ["completed"]

    lab.play(main)
