"""Where the requests of a server arrive: who sent them, which calls are theirs, and the gateway that leads them on."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from contextlib import AbstractAsyncContextManager, contextmanager
from typing import Any, Protocol, TypeVar

from mcp_types import InputRequiredResult

from perdure.calls import Calls, Code
from perdure.effects import Frame, Host, own_loop, running_frame
from perdure.engine import CallView, Engine
from perdure.protocol.conversation import Conversation
from perdure.protocol.entrances import Entrances
from perdure.protocol.lifetime import Lifetime
from perdure.protocol.questions import input_required
from perdure.protocol.replies import Finished, HandedOff, Handoff, NeedsInput, Reply
from perdure.protocol.sdk import RequestContext
from perdure.protocol.wire import CancelNote, RequestRef
from perdure.tool import Durable

T = TypeVar("T")


class Functions(Code, Host, Protocol):
    """What the server has registered."""


class Reception:
    """Of one server, in whichever of its lives; `engine` is asked for when a request needs it."""

    def __init__(
        self, entrances: Entrances, lifetime: Lifetime[Any], engine: Callable[[], Engine], functions: Functions
    ) -> None:
        self._entrances = entrances
        self._lifetime = lifetime
        self._engine = engine
        self._functions = functions

    @property
    def engine(self) -> Engine:
        return self._engine()

    # --- who asks ---

    def caller_id(self, ctx: RequestContext) -> str | None:
        return self._entrances.caller_of(ctx).id

    def calls_for(self, ctx: RequestContext) -> Calls:
        """The calls of whoever sent the request."""
        caller = self._entrances.caller_of(ctx)
        return Calls(self._engine, caller=caller.id, principal=caller.principal, code=self._functions)

    # --- what is done for a request ---

    async def answer(
        self,
        durable: Durable,
        raw: Mapping[str, Any],
        values: dict[str, Any],
        ctx: RequestContext | None,
        result_of: Callable[[bytes], T],
        handoff: Handoff | None = None,
    ) -> T | InputRequiredResult:
        """What the SDK sends for a request that asks something durable. Raises what its call failed with.

        `raw` are the arguments as they came, `values` as they were validated.
        """
        arguments = durable.parameters.encode(raw, values)
        reply = await self._lifetime.current.gateway.call(durable, arguments, ctx, handoff)
        return _sent(reply, result_of, handoff)

    async def attend(self, call_id: str, conversation: Conversation) -> CallView:
        """Wait until a call is settled, for a request about it, and ask its questions meanwhile."""
        return await self._lifetime.current.gateway.attend(call_id, conversation)

    def looking(self) -> AbstractAsyncContextManager[None]:
        """Around what an ordinary request waits for: it ends when the server does, and says so."""
        return self._lifetime.current.gateway.looking()

    @contextmanager
    def ordinarily(self, name: str, ctx: RequestContext | None) -> Generator[None]:
        """Around what is not recorded: it learns from `current_step` who asks, and stores whose entries are meant."""
        caller = self._entrances.caller_of(ctx)
        token = running_frame.set(Frame(self._functions, caller.id, caller.principal, name=name, loop=own_loop()))
        try:
            yield
        finally:
            running_frame.reset(token)

    # --- what is said about requests ---

    def cancelled(self, note: CancelNote) -> None:
        for life in self._lifetime.lives:
            life.gateway.cancelled(note)

    def session_ended(self, session: str) -> None:
        for life in self._lifetime.lives:
            life.gateway.session_ended(session)

    def resumed(self, ref: RequestRef) -> None:
        for life in self._lifetime.lives:
            life.gateway.resumed(ref)

    def drain(self) -> None:
        """Let every request go, with an error that says to ask again; the calls go on."""
        for life in self._lifetime.lives:
            life.gateway.drain()


def _sent(reply: Reply, result_of: Callable[[bytes], Any], handoff: Handoff | None) -> Any:
    match reply:
        case NeedsInput():
            return input_required(reply)
        case HandedOff():
            assert handoff is not None
            return handoff.reply(reply.view)
        case Finished():
            assert reply.view.outcome is not None
            return result_of(reply.view.outcome)
