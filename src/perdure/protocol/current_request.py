"""The request that is being answered, for what the SDK calls without it."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from mcp.server.mcpserver import Context

from perdure.protocol.sdk import RequestContext


@dataclass(frozen=True, slots=True)
class CurrentRequest:
    context: Context[Any, Any] | None
    raw: Mapping[str, Any] | str
    """Arguments, or the URI of a resource."""


_current: ContextVar[CurrentRequest | None] = ContextVar("perdure_current_request", default=None)


@contextmanager
def answering(context: Context[Any, Any] | None, raw: Mapping[str, Any] | str) -> Generator[None]:
    token = _current.set(CurrentRequest(context, raw))
    try:
        yield
    finally:
        _current.reset(token)


def current_raw() -> Mapping[str, Any] | str | None:
    current = _current.get()
    return None if current is None else current.raw


def current_context() -> Context[Any, Any] | None:
    current = _current.get()
    return None if current is None else current.context


def request_of(context: Context[Any, Any] | None) -> RequestContext | None:
    """The request behind an SDK context; None behind one that a program made."""
    if context is None:
        return None
    try:
        return context.request_context
    except ValueError:
        return None
