"""
The pytest plugin: the fixture `perdure_kit`.

Every pytest of an environment that has perdure loads it. It lies outside of the package, and imports nothing
of it before a test asks, so that those who do not test workflows do not wait for it either.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from perdure.app import App
    from perdure.testing.kit import Kit


@pytest.fixture
def perdure_app() -> App:
    """The app under test: define a fixture of this name, in conftest.py or in the module, that returns it."""
    problem = (
        "perdure_kit needs to know the app under test. Say it in conftest.py:\n\n"
        "    from orders import app\n\n"
        "    @pytest.fixture\n    def perdure_app():\n        return app"
    )
    pytest.fail(problem, pytrace=False)


@pytest.fixture
def perdure_kit(perdure_app: App, tmp_path: Path) -> Iterator[Kit]:
    """The app's workflows on a database of this test's own, in virtual time; see `perdure.testing.Kit`."""
    from perdure.testing.kit import Kit  # noqa: PLC0415 - see above

    with Kit(perdure_app, tmp_path / "perdure") as kit:
        yield kit
