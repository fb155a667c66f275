"""`Store`: a durable sorted map, for bodies, steps, tools, resources and routes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar, overload

from perdure.core.codec import codec_for, decode_error, recordable
from perdure.effects import current_effects, running_frame
from perdure.engine import (
    DeleteEntry,
    Engine,
    GetEntry,
    ListEntries,
    Principal,
    SetEntry,
    StoreOperation,
    StoreReply,
    SwapEntry,
)
from perdure.errors import PerdureError

V = TypeVar("V")

SHARED = ""
"""The scope of a store that all callers share."""


class Store(Generic[V]):
    """A durable map from strings to values of one type, sorted by key.

    From a body each operation happens exactly once; elsewhere it is one transaction of its own, at least once.
    """

    def __init__(
        self,
        name: str,
        type: type[V],
        *,
        engine: Callable[[], Engine],
        per_principal: bool = False,
        caller: str | None = None,
    ) -> None:
        self.name = name
        self.type = type
        self._engine = engine
        self._per_principal = per_principal
        self._caller = caller
        self._codec = codec_for(type)

    @overload
    async def get(self, key: str) -> V | None: ...
    @overload
    async def get(self, key: str, default: V) -> V: ...
    async def get(self, key: str, default: V | None = None) -> V | None:
        """The value under `key`, or `default`."""
        raw = await self._read(key)
        return default if raw is None else self._codec.decode(raw)

    async def set(self, key: str, value: V) -> None:
        """Put a value under `key`, whatever was there."""
        await self._use(SetEntry(self._scope, key, self._codec.encode(value)))

    async def delete(self, key: str) -> None:
        """Remove what is under `key`, if anything is."""
        await self._use(DeleteEntry(self._scope, key))

    async def update(self, key: str, change: Callable[[V | None], V | None]) -> V | None:
        """Put what `change` makes of the value there (None: absent) in its place; None deletes. The new value.

        `change` must be pure: it is called again when somebody else was faster. What it raises leaves all as it was.
        """
        before = await self._read(key)
        while True:
            new = change(None if before is None else self._codec.decode(before))
            after = None if new is None else self._codec.encode(new)
            reply = await self._use(SwapEntry(self._scope, key, before, after))
            if reply.done:
                return None if after is None else self._codec.decode(after)
            before = _value(reply)

    async def items(self, *, prefix: str = "", after: str | None = None, limit: int = 100) -> list[tuple[str, V]]:
        """Entries in the order of their keys; the last key, given as `after`, goes on."""
        reply = await self._use(ListEntries(self._scope, prefix, after, limit))
        return [(key, self._codec.decode(raw)) for key, raw in reply.entries]

    def of(self, principal: Principal | None) -> Store[V]:
        """The entries of this principal, where nothing else says who asks: in a route, say."""
        if not self._per_principal:
            raise PerdureError(f"Store {self.name!r} is one for all: it has no entries of one principal.")
        if principal is None:
            raise self._nobody()
        return Store(self.name, self.type, engine=self._engine, per_principal=True, caller=principal.caller)

    @property
    def _scope(self) -> str:
        if not self._per_principal:
            return SHARED
        if self._caller is not None:
            return self._caller
        frame = running_frame.get()
        if frame is None or frame.caller is None:
            raise self._nobody()
        return frame.caller

    def _nobody(self) -> PerdureError:
        return PerdureError(
            f"Store {self.name!r} keeps entries per principal, and it is not known whose are meant: the request is "
            "anonymous, the call is shared, or this is no request at all. Use store.of(principal)."
        )

    async def _read(self, key: str) -> bytes | None:
        return _value(await self._use(GetEntry(self._scope, key)))

    async def _use(self, operation: StoreOperation) -> StoreReply:
        listed = isinstance(operation, ListEntries)
        for key in (operation.prefix, operation.after) if listed else (operation.key,):
            recordable(f"A key of store {self.name!r}", key)
        effects = current_effects()
        if effects is None:
            return await self._engine().store(self.name, operation)
        reply = StoreReply.from_bytes(await effects.store(self.name, operation))
        if reply.refusal is not None:
            raise decode_error(reply.refusal)
        return reply


def _value(reply: StoreReply) -> bytes | None:
    return reply.entries[0][1] if reply.entries else None
