"""What is observed must be the same on both databases."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[1]))

from postgreskit.schemas import empty_schema

from perdure import App, WorkerOptions
from perdure.testing.time import run_virtual


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """An empty database of each kind."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'runs.db'}"
        return
    with empty_schema() as url:
        yield url


@pytest.fixture
def play(url):
    """Runs `main(app)` in virtual time, with an app that has these workflows; `app.variant` makes more on its database."""

    def run(main, *workflows, opened=True, worker=None, **settings):
        async def virtual(clock):
            options = WorkerOptions(**{"lease": 86_400, **(worker or {})})
            app = App(url, clock=clock, worker=options, **settings)
            for workflow in workflows:
                app.workflow(workflow)
            if not opened:
                return await main(app)
            async with app:
                return await main(app)

        return run_virtual(virtual)

    return run
