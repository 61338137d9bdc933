"""The base of all errors of perdure."""

from __future__ import annotations

from typing import Any, ClassVar


def _rebuild(cls: type[PerdureError], args: tuple[Any, ...], fields: dict[str, Any]) -> PerdureError:
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(fields)
    return error


class PerdureError(Exception):
    """
    Base of all errors of perdure.

    Attributes:
        code: Stable snake_case name, the same in Python, JSON, HTTP and stored records.
        http_status: Status of the problem+json answer that stands for it.
        exit_code: Exit code of the command line.
    """

    code: ClassVar[str] = "perdure_error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, /, **fields: Any) -> None:
        super().__init__(message)
        self.__dict__.update(fields)

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild without calling ``__init__``, whose parameters differ from class to class."""
        return _rebuild, (type(self), self.args, dict(self.__dict__))
