"""
Schemas of plain JSON types, as pydantic itself would give them, without importing it.

A program whose steps and workflows declare nothing else is spared that import, which takes longer than perdure's own.
What checks values is pydantic_core; all that pydantic adds is how to look at classes.
"""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin

_ATOMS = {Any: "any", None: "none", NoneType: "none", bool: "bool", int: "int", float: "float", str: "str"}
_PARTS = {
    list: ("list", ("items_schema",)),
    dict: ("dict", ("keys_schema", "values_schema")),
    Union: ("nullable", ("schema",)),
    UnionType: ("nullable", ("schema",)),
}

Schema = dict[str, Any]


def plain_schema(annotation: Any) -> Schema | None:
    """
    The core schema of a type made of the types of JSON.

    Args:
        annotation: Such as `dict[str, list[int]] | None`.

    Returns:
        What `TypeAdapter(annotation).core_schema` is, or None for any other type.
    """
    try:
        atom = _ATOMS.get(annotation)
    except TypeError:  # not hashable, as Annotated[int, {}]
        atom = None
    if atom is not None:
        return {"type": atom}
    bare = annotation in (list, dict)
    kind, fields = _PARTS.get(annotation if bare else get_origin(annotation), ("", ()))
    types = (Any,) * len(fields) if bare else get_args(annotation)
    if kind == "nullable":
        types = tuple(each for each in types if each is not NoneType)
    schemas = [plain_schema(each) for each in types]
    if not kind or len(schemas) != len(fields) or None in schemas:
        return None
    return {"type": kind, **dict(zip(fields, schemas, strict=True))}
