"""The driver's errors become ours by their classes, never by their texts."""

import errno
import os

import apsw
import pytest

from perdure.errors import (
    OperationRefused,
    StoreBusy,
    StoreCorrupt,
    StoreError,
    StoreFull,
    StoreReadOnly,
    StoreUnavailable,
)
from perdure.store.sqlite_errors import UNSTORABLE, mapped, mapping

WANTED = {
    apsw.BusyError: StoreBusy,
    apsw.LockedError: StoreBusy,
    apsw.FullError: StoreFull,
    apsw.ReadOnlyError: StoreReadOnly,
    apsw.PermissionsError: StoreReadOnly,
    apsw.CantOpenError: StoreUnavailable,
    apsw.IOError: StoreUnavailable,
    apsw.NoMemError: StoreUnavailable,
    apsw.NotADBError: StoreCorrupt,
    apsw.CorruptError: StoreCorrupt,
    apsw.ConstraintError: OperationRefused,
    apsw.TooBigError: OperationRefused,
    apsw.MismatchError: OperationRefused,
}
ALL = {cls for cls in vars(apsw).values() if isinstance(cls, type) and issubclass(cls, apsw.Error)}


@pytest.mark.parametrize("theirs", sorted(ALL, key=lambda cls: cls.__name__))
def test_every_error_of_the_driver_has_one_of_ours(theirs):
    """A caller would have to know SQLite to tell a busy file from a broken one."""
    error = mapped(theirs("what SQLite said"), "orders.db")
    assert type(error) is WANTED.get(theirs, StoreError)
    assert "what SQLite said" in str(error)
    assert "orders.db" in str(error)


@pytest.mark.parametrize("system", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG])
def test_a_quota_and_a_limit_are_no_room_too(system):
    """An operator would look for a broken disk where a quota is used up."""
    error = mapped(apsw.IOError("disk I/O error"), "orders.db", system)
    assert type(error) is StoreFull
    assert os.strerror(system) in str(error)
    assert type(mapped(apsw.IOError("disk I/O error"), "orders.db", errno.EIO)) is StoreUnavailable
    assert type(mapped(apsw.CorruptError("malformed"), "orders.db", system)) is StoreCorrupt


def test_the_text_does_not_decide():
    """A message that happens to say "locked" would be taken for a busy file."""
    assert type(mapped(apsw.CorruptError("database is locked"), "x")) is StoreCorrupt


@pytest.mark.parametrize(
    "theirs", [UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates"), OverflowError(), TypeError()]
)
def test_values_that_cannot_be_stored_are_refused(theirs):
    """One strange value would stop the store for everybody."""
    assert isinstance(theirs, UNSTORABLE)
    assert type(mapped(theirs, "x")) is OperationRefused


def test_the_cause_is_kept():
    """A bug report would not show what SQLite said."""
    with pytest.raises(StoreFull) as problem, mapping("x"):
        raise apsw.FullError("full")
    assert isinstance(problem.value.__cause__, apsw.FullError)


def test_other_errors_pass():
    """A mistake of ours would be reported as a failure of the disk."""
    with pytest.raises(ZeroDivisionError), mapping("x"):
        raise ZeroDivisionError
