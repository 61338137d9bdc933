"""What all crash tests share: a place for each test, with its own database and its own processes."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from crashkit.harness import Place
from crashkit.pgplace import PostgresPlace


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder with a new database; whatever still runs in it when the test ends is killed."""
    with Place(tmp_path) as made:
        yield made


@pytest.fixture(params=[Place, PostgresPlace], ids=["sqlite", "postgres"])
def any_place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """As `place`, on each kind of database."""
    with request.param(tmp_path) as made:
        yield made
