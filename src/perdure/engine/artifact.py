"""What the steps of a run keep beside its journal, under names."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from perdure import ids
from perdure.codec.payload import Payloads
from perdure.codec.value import codec_for
from perdure.errors import ArtifactNotFound, StepOver
from perdure.model.run import Claimed
from perdure.store.operation import Operation
from perdure.store.store import Store

if TYPE_CHECKING:
    from perdure.engine.host import Host

T = TypeVar("T")
BYTES, JSON = "bytes", "json"
_MEDIA_TYPES = {BYTES: "application/octet-stream", JSON: "application/json"}


class Artifacts:
    """
    The artifacts of one run, as the body of one of its steps sees them.

    All steps of a run see the same ones. They stay when a step fails or the run is done again, and go when the run
    is removed; a fork begins with a copy.

    Args:
        step: Key of the step that asks.
    """

    __slots__ = ("_host", "_run", "_step")

    def __init__(self, host: Host, run: Claimed, step: str) -> None:
        self._host = host
        self._run = run
        self._step = step

    async def save(self, name: str, value: Any, *, media_type: str = "") -> None:
        """
        Keep a value under a name, in place of what was there; it is durable when this returns.

        As an attempt may be made again, so may this: the same name then has the new value.

        Args:
            name: 1 to 200 characters, such as "pages/7.txt".
            value: Bytes, or any value that can be stored as JSON; at most ``Limits(payload_bytes=…)``.
            media_type: What readers are told; by default that of bytes, of plain text, or of JSON.

        Raises:
            NotSerializable, PayloadTooLarge: The value cannot be stored.
            StepOver: The run is no longer driven here. It is no `Exception`, so that it ends the body.
        """
        ids.check_id("artifact name", name)
        what = f"Artifact {name!r}"
        form = BYTES if isinstance(value, bytes | bytearray | memoryview) else JSON
        text = codec_for(bytes if form == BYTES else Any).encode(bytes(value) if form == BYTES else value, what)
        size = len(value) if form == BYTES else len(value.encode() if isinstance(value, str) else text.encode())
        told = media_type or ("text/plain" if isinstance(value, str) else _MEDIA_TYPES[form])
        host, run = self._host, self._run
        operation = Operation()
        operation.add(
            "save_artifact", run.number, run.epoch, name, self._step, form, told, size, host.payloads.seal(text, what),
            host.clock.now(),
        )  # fmt: skip
        if not await host.store.apply(operation):
            raise StepOver(self._step)

    @overload
    async def load(self, name: str) -> Any: ...
    @overload
    async def load(self, name: str, type: type[T]) -> T: ...
    async def load(self, name: str, type: Any = Any) -> Any:
        """
        What was kept under a name, by any step of the run: bytes, or plain data.

        Args:
            type: To have it as this type.

        Raises:
            ArtifactNotFound: There is nothing under this name.
            InvalidInput: It does not have the type.
        """
        return await load_artifact(self._host.store, self._host.payloads, self._run.number, self._run.id, name, type)

    async def exists(self, name: str) -> bool:
        """Whether there is something under this name."""
        return name in await self.names()

    async def names(self) -> list[str]:
        """The names there are, sorted."""
        return [row[0] for row in await self._host.store.rows("artifacts", self._run.number)]

    async def delete(self, name: str) -> None:
        """Forget what is under a name, if there is anything."""
        operation = Operation()
        operation.add("remove_artifact", self._run.number, self._run.epoch, name)
        await self._host.store.apply(operation)


async def load_artifact(  # noqa: PLR0917 - where it is, and how it is read
    store: Store, payloads: Payloads, number: int, run_id: str, name: str, type: Any
) -> Any:
    """
    Read an artifact.

    Raises:
        ArtifactNotFound: There is none of this name.
        InvalidInput: It does not have the type.
    """
    rows = await store.rows("artifact", number, name)
    if not rows:
        raise ArtifactNotFound(run_id, name)
    form, data = rows[0]
    text, wanted = payloads.open(data), bytes if form == BYTES and type is Any else type
    return codec_for(wanted).decode(text, f"Artifact {name!r}")
