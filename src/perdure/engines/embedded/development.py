"""What `--dev` and trials run on: the embedded engine, where bodies are looked at more closely."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any, overload

from perdure.core.audit import watching
from perdure.engine import Function, Notice
from perdure.engines.embedded.engine import Embedded


class Development(Embedded):
    """Each body that finishes is replayed once more, and I/O in one is found where it happens."""

    @classmethod
    def of(cls, engine: Embedded) -> Development:
        """With the same settings; `engine` is not served itself."""
        development = cls(engine.path or "memory:", durability=engine.durability)
        development.settings = engine.settings
        return development

    @asynccontextmanager
    async def serve(
        self,
        functions: Sequence[Function],
        *,
        work: bool = True,
        notices: Callable[[Notice], None] | None = None,
        around: AbstractAsyncContextManager[Any] | None = None,
    ) -> AsyncGenerator[None]:
        with watching():
            async with super().serve(_Checked(functions), work=work, notices=notices, around=around):
                yield


class _Checked(Sequence[Function]):
    """A view of a list to which functions may be added while it is served."""

    def __init__(self, functions: Sequence[Function]) -> None:
        self._functions = functions

    def __len__(self) -> int:
        return len(self._functions)

    @overload
    def __getitem__(self, index: int) -> Function: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Function]: ...
    def __getitem__(self, index: int | slice) -> Function | Sequence[Function]:
        found = self._functions[index]
        return replace(found, check=True) if isinstance(found, Function) else _Checked(found)
