"""The conformance suite: one body for all stores, on real databases."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
sys.path.insert(0, str(Path(__file__).parents[1]))

from storekit.database import Database
from storekit.kinds import KINDS, SqliteFile


@pytest.fixture(params=KINDS, ids=lambda kind: kind.name)
def db(request, tmp_path):
    """An empty database of each kind."""
    database = Database(request.param(tmp_path))
    yield database
    database.close()


@pytest.fixture
def file_db(tmp_path):
    """An empty SQLite file, for what is SQLite's own."""
    database = Database(SqliteFile(tmp_path))
    yield database
    database.close()
