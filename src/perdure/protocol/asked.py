"""The request that is being handled, for what the SDK calls without it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from mcp.server.mcpserver import Context

from perdure.protocol.sdk import RequestContext


@dataclass(frozen=True, slots=True)
class Asked:
    context: Context[Any, Any] | None
    raw: Mapping[str, Any] | str
    """Arguments, or the URI of a resource."""


_asked: ContextVar[Asked | None] = ContextVar("perdure_asked", default=None)


@contextmanager
def asking(context: Context[Any, Any] | None, raw: Mapping[str, Any] | str) -> Generator[None]:
    token = _asked.set(Asked(context, raw))
    try:
        yield
    finally:
        _asked.reset(token)


def asked_raw() -> Mapping[str, Any] | str | None:
    asked = _asked.get()
    return None if asked is None else asked.raw


def asked_context() -> Context[Any, Any] | None:
    asked = _asked.get()
    return None if asked is None else asked.context


def request_of(context: Context[Any, Any] | None) -> RequestContext | None:
    """The request behind an SDK context; None behind one that a program made."""
    if context is None:
        return None
    try:
        return context.request_context
    except ValueError:
        return None
