"""Lists of runs by their filters: whitelisted fragments, bound values, keyset pages."""

from __future__ import annotations

from typing import Any

from perdure.clock import from_datetime
from perdure.model.run import RunFilter, RunPage, RunRow
from perdure.model.version import pin, versions_between
from perdure.store.store import Store


async def list_runs(store: Store, wanted: RunFilter) -> RunPage:
    """One page of the runs that meet a filter, newest first unless asked otherwise."""
    conditions: list[str] = []
    values: list[Any] = []

    def add(condition: str, *bound: Any) -> None:
        conditions.append(condition)
        values.extend(bound)

    if wanted.status:
        add(f"status in ({', '.join('?' * len(wanted.status))})", *(status.value for status in wanted.status))
    if wanted.workflow is not None:
        add(*_of_workflow(wanted.workflow, wanted.version))
    if wanted.parent is not None:
        add("parent = (select p.number from perdure_runs p where p.id = ?)", wanted.parent)
    if wanted.tag is not None:
        add("number in (select t.run from perdure_tags t where t.tag = ?)", wanted.tag)
    if wanted.id_prefix is not None:
        add("id >= ? and id < ?", wanted.id_prefix, wanted.id_prefix + "\U0010ffff")
    if wanted.created_from is not None:
        add("created_at >= ?", from_datetime(wanted.created_from))
    if wanted.created_to is not None:
        add("created_at < ?", from_datetime(wanted.created_to))
    if wanted.after is not None:
        add("number > ?" if wanted.oldest_first else "number < ?", wanted.after)
    where = f"where {' and '.join(conditions)} " if conditions else ""
    order = "asc" if wanted.oldest_first else "desc"
    # The fragments are fixed above; every value is bound.
    sql = f"select * from perdure_runs {where}order by number {order} limit ?"  # noqa: S608
    rows = [RunRow(*row) for row in await store.select(sql, [*values, wanted.limit + 1])]
    more = len(rows) > wanted.limit
    rows = rows[: wanted.limit]
    return RunPage(rows, rows[-1].number if more else None)


def _of_workflow(name: str, version: str | None) -> tuple[str, ...]:
    """The condition, and its values, that a run is of a workflow: in one version, or in any."""
    if version is not None:
        return "workflow = ?", pin(name, version)
    return "(workflow = ? or (workflow >= ? and workflow < ?))", name, *versions_between(name)
