"""The seam between perdure and what runs calls durably: the `Engine` protocol and its records.

An engine knows functions by name, arguments and outcomes as payloads, and callers as strings; it knows no MCP.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from contextvars import Context
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from perdure.core.call import ENDED, Status
from perdure.core.commands import NotifyChange, SendLog, Work
from perdure.core.events import Event
from perdure.core.record import keyword_record, record

if TYPE_CHECKING:
    from perdure.effects import Effects, Host

KEPT = timedelta(days=7)
ADOPTABLE = timedelta(minutes=10)


@dataclass(frozen=True)
class Principal:
    """The authenticated identity behind a request (RFC 7662's `sub`, `iss`, `client_id`, `scope`)."""

    subject: str
    issuer: str | None = None
    client_id: str | None = None
    scopes: frozenset[str] = frozenset()

    @property
    def caller(self) -> str:
        """Who may find a call again: the scopes may change, the identity does not."""
        return "principal:" + json.dumps([self.client_id, self.issuer, self.subject], separators=(",", ":"))


MACHINE = "machine"
"""The caller where no principal is known but the machine's own user asks: stdio, in memory, scripts."""

TIME_TO_LIVE = timedelta(days=7)
"""How long a question without a time-out waits for its answer."""

NOBODY = ""
"""Among a view's callers: somebody without an identity asked, so whoever has the call's id may be the one."""


# --- what can be run ------------------------------------------------------------------------------


@record
class CallFacts:
    """What a function may know of the call it runs for."""

    call_id: str
    tool: str
    caller: str | None
    principal: Principal | None


@dataclass(frozen=True)
class BodyFunction:
    """`main` runs in the body's own loop and returns the outcome's payload."""

    main: Callable[[Effects, CallFacts, bytes], Coroutine[Any, Any, bytes]]
    signals: Mapping[str, Callable[[bytes], Any]] = field(default_factory=dict[str, Callable[[bytes], Any]])
    """What reads each declared signal. One that it raises upon is dropped before the body hears of it."""


@dataclass(frozen=True)
class WholeStep:
    """The call is one step; it runs again after a crash only if `rerun`."""

    work: Callable[[CallFacts, bytes], Work]
    rerun: bool


@dataclass(frozen=True)
class Function:
    """A registered function. `name` is `module:qualname`, which calls are kept under; `aliases` are names it had."""

    name: str
    tool: str
    kind: Literal["tool", "prompt", "resource", "job"]
    run: BodyFunction | WholeStep
    host: Host
    aliases: tuple[str, ...] = ()
    schedule: Schedule | None = None
    check: bool = False
    """Replay every finished body once more, in `--dev` and trials."""


# --- what is asked --------------------------------------------------------------------------------

QuestionKind = Literal["form", "url", "sampling"]


@record
class QuestionAsk:
    """What a body wants to ask. Where it cannot be asked as told here, the body gets `InputUnavailable` at once.

    `question.name` is a wish: one that was used before in the call gets a number.
    """

    question: Question
    if_unable: Literal["wait", "refuse"]
    """Somebody waits for the call whose client cannot be asked."""
    if_nobody: Literal["wait", "refuse"]
    """Nobody waits for it now: a job, an orphan, a task."""


@record
class SignalSpec:
    """What a call accepts; `schema` is JSON Schema, so that those without the code can check."""

    name: str
    once: bool
    schema: Mapping[str, Any]


@record
class Place:
    """Where in a parent's body a child was asked for."""

    call_id: str
    key: str


@keyword_record
class Request:
    """A wish for a call. `start` decides which call it gets."""

    function: str
    tool: str
    kind: Literal["tool", "prompt", "resource", "job"] = "tool"
    arguments: bytes
    digest: str
    caller: str | None = None
    principal: Principal | None = None
    waiting: str | None = None
    """The id of the request that waits for the call; None when nobody does, which also keeps it from being adopted."""
    key: str | None = None
    shared: bool = False
    reuse: timedelta | None = None
    """How long after it completed a keyed call still answers; None is as long as it is kept."""
    idempotency_key: str | None = None
    resumes: str | None = None
    """The call that the request is about, by a state or an id that was given out for it; nothing else is looked at."""
    asks: frozenset[QuestionKind] = frozenset()
    """What the client that waits can be asked."""
    attach_identical: bool = False
    adopt_within: timedelta = ADOPTABLE
    deadline: timedelta | None = None
    retain: timedelta = KEPT
    on_disconnect: Literal["continue", "cancel"] = "continue"
    signals: tuple[SignalSpec, ...] = ()
    after: timedelta | None = None
    parent: Place | None = None
    call_id: str | None = None
    """The id to give to a new call: a child's is derived from its place."""
    context: Context | None = field(default=None, compare=False, repr=False)
    """A whole step's first life runs in its request's context; never recorded."""


@record
class Schedule:
    """One call per tick over all processes; ticks are at the multiples of `every` since 1970, UTC. One that was missed
    is made up once. `request` is the wish without its key and its delay."""

    every: timedelta
    request: Request


@record
class Accepted:
    """The answer to a request: which call it is. It is on disk."""

    call_id: str
    how: Literal["new", "attached", "adopted"]


@record
class Signal:
    name: str
    value: bytes


@record
class Answer:
    """To the question that the call shows under `name`; JSON in the shape that MCP gives an answer of its kind:
    `{"action": …, "content": …}` of an elicitation, or the result of a sampling, or `{"error": …}` instead of it."""

    name: str
    value: bytes


@record
class Cancel:
    """`caller` wants it no longer: a shared call is cancelled when no one is left, any other is adopted no more.

    None cancels for all, and whoever asked is told so.
    """

    reason: str = ""
    caller: str | None = None


Delivery = Signal | Answer | Cancel


# --- what is seen ---------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Question:
    """Something that a call asks a person or a model. `schema` is JSON Schema of a form's answer."""

    name: str
    kind: QuestionKind
    message: str
    schema: dict[str, Any] | None
    url: str | None
    params: dict[str, Any] = field(default_factory=dict[str, Any], repr=False)
    """Of the request that MCP has for it: elicitation/create, or sampling/createMessage."""


@dataclass(frozen=True, slots=True)
class Progress:
    progress: float
    total: float | None
    message: str | None


@keyword_record
class CallView:
    """A call as it is now. `text` and `data` are what `set_status` said last; times are UTC."""

    id: str
    tool: str
    function: str
    kind: Literal["tool", "prompt", "resource", "job"]
    key: str | None
    status: Status
    text: str = ""
    status_data: bytes | None = field(default=None, repr=False)
    questions: tuple[Question, ...] = ()
    parent: str | None = None
    outcome: bytes | None = field(default=None, repr=False)
    """The payload of what the function returned."""
    failure: bytes | None = field(default=None, repr=False)
    """The payload of what it raised; of the cancellation; or of what made it stuck."""
    callers: frozenset[str] = field(default=frozenset(), repr=False)
    signals: tuple[SignalSpec, ...] = field(default=(), repr=False)
    progress: Progress | None = None
    version: int = 0
    """Grows with every change, also over restarts."""
    created: datetime
    updated: datetime | None = None
    """When it changed last; None where nothing did since it was created."""
    wakes: datetime | None = None
    """When it goes on if nothing comes for it before; known of a call that left memory."""
    expires: datetime | None = None
    """When it is forgotten; None before its end, and for one that is kept until an operator acts."""
    ended: datetime | None = None

    @property
    def is_over(self) -> bool:
        return self.status in ENDED

    @property
    def data(self) -> Any:
        return None if self.status_data is None else json.loads(self.status_data)

    @property
    def result(self) -> Any:
        """The recorded outcome as JSON; a tool's is its `CallToolResult`."""
        return None if self.outcome is None else json.loads(self.outcome)

    @property
    def error(self) -> str | None:
        """What went wrong, in words."""
        from perdure.core.codec import describe_error

        return None if self.failure is None else describe_error(self.failure)


@dataclass(frozen=True, slots=True)
class TimelineEntry:
    """One line of what happened to a call: a step, a timer, a signal, a child, its end."""

    at: datetime
    kind: str
    name: str
    attempts: int = 0
    began: datetime | None = None
    ended: datetime | None = None
    error: str | None = None
    next_attempt: datetime | None = None


@record
class Query:
    """`caller` sees only its own; `principal` is a subject, for operators. Newest first."""

    status: Status | None = None
    tool: str | None = None
    principal: str | None = None
    caller: str | None = None
    after: str | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True)
class Page:
    calls: list[CallView]
    next: str | None
    """Give it as `after` to go on; None at the end."""


@record
class Notice:
    """What a running body wants its clients to hear, once it is recorded that it said so."""

    call_id: str
    what: SendLog | NotifyChange


# --- stores ---------------------------------------------------------------------------------------


@record
class GetEntry:
    scope: str
    """The caller of a per-principal store; empty for one that all share."""
    key: str


@record
class SetEntry:
    scope: str
    key: str
    value: bytes


@record
class DeleteEntry:
    scope: str
    key: str


@record
class SwapEntry:
    """Compare and set: write `value` (None deletes) if the entry is still `expected` (None: absent)."""

    scope: str
    key: str
    expected: bytes | None
    value: bytes | None


@record
class ListEntries:
    """In the order of the keys, those after `after`."""

    scope: str
    prefix: str = ""
    after: str | None = None
    limit: int = 100


StoreOperation = GetEntry | SetEntry | DeleteEntry | SwapEntry | ListEntries


@record
class StoreReply:
    """`done` is false where a compare-and-set found another value, which `entries` then shows; and where what a body
    wrote or read cannot be recorded: `refusal` is that error."""

    done: bool
    entries: tuple[tuple[str, bytes], ...] = ()
    refusal: bytes | None = None

    def to_bytes(self) -> bytes:
        refusal = [] if self.refusal is None else [self.refusal.decode()]
        entries = [[k, v.decode()] for k, v in self.entries]
        return json.dumps([self.done, entries, *refusal], separators=(",", ":")).encode()

    @classmethod
    def from_bytes(cls, raw: bytes) -> StoreReply:
        done, entries, *refusal = json.loads(raw)
        return cls(done, tuple((k, v.encode()) for k, v in entries), refusal[0].encode() if refusal else None)


# --- the seam -------------------------------------------------------------------------------------


class Alarm(Protocol):
    def cancel(self) -> None: ...


class Clock(Protocol):
    """POSIX seconds that never go back within a process, and callbacks at a time."""

    def now(self) -> float: ...
    def alarm(self, when: float, ring: Callable[[], None], *, skippable: bool = False) -> Alarm:
        """Where time leaps, in a trial, most of the skippable ones are left out: they are many, and say nothing."""
        ...


class Engine(Protocol):
    """What runs calls durably. Every method may raise `StorageError`; those that name a call, `CallNotFound`."""

    @property
    def capabilities(self) -> frozenset[str]: ...

    @property
    def path(self) -> Path | None:
        """The file that calls are kept in, if it is one: what must outlive the process with them lies beside it."""
        ...

    @property
    def request_clock(self) -> Clock:
        """What requests wait by: the time of their calls, but no crash of a trial takes its alarms."""
        ...

    def serve(
        self,
        functions: Sequence[Function],
        *,
        work: bool = True,
        notices: Callable[[Notice], None] | None = None,
        around: AbstractAsyncContextManager[Any] | None = None,
    ) -> AbstractAsyncContextManager[None]:
        """Open the storage and, with `work`, run calls of these functions until it is left.

        `around` is entered when the storage is open and before calls run, and left when they no longer do.
        Functions may be added to a list that is served. On the way out running steps have a grace
        period; the rest is released to siblings or the next start.
        """
        ...

    async def start(self, request: Request) -> Accepted:
        """Decide what call a request gets, and make it durable. Raises `Refused`."""
        ...

    def let_go(self, request: str, *, handed: bool, resumable: bool = False) -> None:
        """The request no longer waits; `handed`: it was given its answer. Rides with the next commit.

        `resumable`: its answer may still be given over another connection, also by the next process; that is said by
        letting go once more, handed or not.
        """
        ...

    async def get(self, call_id: str) -> CallView: ...

    def watch(self, call_id: str, after: int = -1) -> AsyncIterator[CallView]:
        """Each view newer than version `after`, the latest wins; ends with the call."""
        ...

    async def deliver(self, call_id: str, delivery: Delivery) -> None:
        """It is on disk and will be seen. Raises `CallEnded`, and `AlreadyAnswered` for a second `once` signal."""
        ...

    async def find(self, query: Query) -> Page: ...
    async def lookup(self, tool: str, key: str, caller: str | None = None) -> CallView | None:
        """The call that holds a key: the caller's own or a shared one; any with `caller=None`."""
        ...

    async def timeline(self, call_id: str) -> list[TimelineEntry]: ...
    async def journal(self, call_id: str) -> list[Event]: ...
    async def arguments(self, call_id: str) -> bytes: ...
    async def facts(self, call_id: str) -> CallFacts:
        """What its function was told of the call, for who replays it."""
        ...

    async def retry(self, call_id: str) -> Accepted:
        """Stuck: replay it; failed, cancelled, unknown outcome: a new, linked call. Completed: `Refused`."""
        ...

    async def release(self, call_id: str) -> None:
        """Take the call from its owner, which can no longer write to it."""
        ...

    async def store(self, store: str, operation: StoreOperation) -> StoreReply:
        """One transaction of its own."""
        ...


def open_engine(where: str | Path | Engine) -> Engine:
    """The engine that is named: a path, a URL (`memory:`, `sqlite:///PATH?durability=relaxed`), or one itself."""
    if not isinstance(where, str | Path):
        return where
    from importlib import import_module

    if isinstance(where, str) and where.startswith("temporal:"):
        raise ValueError("The Temporal engine does not ship in this version; use a path or memory:.")
    return import_module("perdure.engines.embedded.engine").open_embedded(where)
