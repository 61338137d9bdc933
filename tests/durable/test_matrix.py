"""The matrix of stores that durable calls are tested on."""

import ast
from pathlib import Path

HERE = Path(__file__).parent
NO_STORE = {
    "test_a_hash_is_that_of_the_canonical_text", "test_what_has_no_place_in_json", "test_ids_of_several_parts",
    "test_a_database_in_memory_needs_an_app", "test_by_url",
}  # fmt: skip
"""Tests that touch no store, or are about the URL of one."""


def test_the_matrix_is_whole():
    """A store is left out, or a test of calls has one store only without a reason."""
    assert 'KINDS = ("file", "memory", "postgres")' in (HERE / "conftest.py").read_text()
    for file in ("test_run.py", "test_events.py", "test_identity.py"):
        tests = [node for node in ast.parse((HERE / file).read_text()).body
                 if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]  # fmt: skip
        alone = {test.name for test in tests if not {"place", "shared"} & {arg.arg for arg in test.args.args}}
        assert alone <= NO_STORE, alone - NO_STORE
