"""The types of JSON are understood as pydantic understands them, without importing it."""

import subprocess
import sys
import typing
from datetime import datetime
from decimal import Decimal
from typing import Annotated, Any, Literal, NewType, Optional, Union

import pytest
from pydantic import BaseModel, Field, TypeAdapter

from perdure.codec.plain import plain_schema

Id = NewType("Id", int)

# ruff: noqa: UP006, UP007, UP045 - old spellings count too
PLAIN = [
    Any, None, type(None), bool, int, float, str, list, dict, list[int], list[Any], dict[str, int], dict[str, Any],
    dict[int, str], dict[str, None], list[dict[str, list[float | None]]], int | None, None | str, list[int] | None,
    Optional[dict[str, bool]], Union[int, None], typing.List[int], typing.Dict[str, int],
]  # fmt: skip
OTHERS = [
    int | str, int | str | None, bytes, datetime, Decimal, tuple[int, ...], set[int], list[bytes], dict[str, set[int]],
    typing.List, typing.Dict, Literal["a"], Annotated[int, Field(gt=0)], Annotated[int, {}], Id, BaseModel, list[Id], object,
]  # fmt: skip


@pytest.mark.parametrize("annotation", PLAIN, ids=str)
def test_a_plain_type_is_checked_as_pydantic_does(annotation):
    """The same annotation would take other values, depending on what else the program has imported."""
    assert plain_schema(annotation) == TypeAdapter(annotation).core_schema


@pytest.mark.parametrize("annotation", OTHERS, ids=str)
def test_pydantic_looks_at_all_others(annotation):
    """What a class says about its own form would be overlooked."""
    assert plain_schema(annotation) is None


def test_a_program_of_plain_types_does_not_wait_for_pydantic():
    """Each short script and each recovered process would begin later by the time of that import."""
    code = """
import asyncio, sys
from perdure import App, Context

app = App("sqlite:///:memory:")

@app.step
async def add(a: int, b: int | None) -> dict[str, int]:
    return {"sum": a + (b or 0)}

@app.workflow
async def work(ctx: Context, numbers: list[int]) -> float:
    return (await ctx.step(add, *numbers))["sum"]

async def main() -> None:
    async with app:
        assert await (await app.start(work, [1, 2])).result() == 3
    assert "pydantic" not in sys.modules, "pydantic was imported"

asyncio.run(main())
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
