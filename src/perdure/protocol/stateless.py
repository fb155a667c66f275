"""The stateless era, from 2026-07-28: a request's own stream carries what is about it, and nothing else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mcp.server.connection import allowed_log_levels
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from perdure.core.commands import NotifyChange, SendLog
from perdure.engine import Question, QuestionKind
from perdure.protocol.conversation import log_message
from perdure.protocol.current_request import current_raw
from perdure.protocol.questions import asks_of
from perdure.protocol.sdk import RequestContext
from perdure.tool import Durable, Kind


@dataclass(frozen=True, slots=True)
class Brought:
    """What a request brings along that was sent again because its call asked something."""

    call_id: str | None = None
    responses: Mapping[str, Any] = field(default_factory=dict[str, Any])


NOTHING = Brought()

METHODS: dict[Kind, str] = {"tool": "tools/call", "prompt": "prompts/get", "resource": "resources/read"}


def brought_by(request: RequestContext | None, durable: Durable) -> Brought:
    """The call that its state names, which the SDK has unsealed, and its answers."""
    if request is None or request.protocol_version not in MODERN_PROTOCOL_VERSIONS or not is_for(request, durable):
        return NOTHING
    params = request.params or {}
    return Brought(params.get("requestState"), params.get("inputResponses") or {})


def is_for(request: RequestContext, durable: Durable) -> bool:
    """What reads a resource of its own server lends it its request, whose state is not that resource's."""
    if request.method != METHODS.get(durable.kind):
        return False
    params = request.params or {}
    return params.get("uri") == current_raw() if durable.kind == "resource" else params.get("name") == durable.name


class StatelessConversation:
    """Log messages are for requests that opted in; changes go to those who listen, through the subscription bus."""

    asks_by_reply = True

    def __init__(self, request: RequestContext, *, is_lent: bool = False) -> None:
        # Whoever lends a request to another could do nothing with a reply that asks.
        self.asks: frozenset[QuestionKind] = asks_of(None if is_lent else request.session.client_capabilities)
        self._session = request.session
        self._request_id = request.request_id
        self._levels = allowed_log_levels(request.protocol_version, request.meta)

    async def ask(self, call_id: str, question: Question) -> bytes | None: ...
    async def settled(self, question: Question) -> None: ...

    async def progress(self, progress: float, total: float | None, message: str | None) -> None:
        await self._session.report_progress(progress, total, message)

    async def log(self, entry: SendLog) -> None:
        if entry.level in self._levels:
            await self._session.send_notification(log_message(entry), self._request_id)

    async def changed(self, change: NotifyChange) -> None: ...
