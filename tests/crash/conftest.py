"""What all crash tests share: a place for each test, with its own database and its own processes."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from crashkit.harness import Place


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A folder with a new database; whatever still runs in it when the test ends is killed."""
    with Place(tmp_path) as made:
        yield made
