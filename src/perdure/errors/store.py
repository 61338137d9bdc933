"""The database refused or failed."""

from __future__ import annotations

from typing import ClassVar

from perdure.errors.base import PerdureError


class StoreError(PerdureError):
    """
    The database refused or failed.

    Attributes:
        retryable: Whether the same operation can succeed later without a change.
    """

    code = "store_error"
    http_status = 503
    exit_code = 7
    retryable: ClassVar[bool] = False

    def __init__(self, problem: str) -> None:
        super().__init__(problem)


class StoreUnavailable(StoreError):
    """The database cannot be opened or reached."""

    code = "store_unavailable"
    retryable = True


class StoreBusy(StoreError):
    """Another process holds the database longer than we wait for it."""

    code = "store_busy"
    retryable = True


class StoreFull(StoreError):
    """There is no room on the disk; nothing of the operation was stored."""

    code = "store_full"
    retryable = True


class StoreReadOnly(StoreError):
    """The database or its folder cannot be written."""

    code = "store_read_only"
    retryable = True


class StoreCorrupt(StoreError):
    """The file is no database, is damaged, or holds a row that cannot be read."""

    code = "store_corrupt"


class StoreClosed(StoreError):
    """The store was closed."""

    code = "store_closed"


class SchemaTooNew(StoreError):
    """The database was migrated by a newer perdure."""

    code = "schema_too_new"


class SchemaMissing(StoreError):
    """The database has no schema of perdure, or an older one, and may not be migrated now."""

    code = "schema_missing"


class OperationRefused(StoreError):
    """One operation broke a rule of the schema; the others of its batch are stored."""

    code = "operation_refused"
