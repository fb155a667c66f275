"""What a body asks for.

A command is performed once its feed is committed, and never in replay before the journal's end.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any, Literal

from perdure.core.record import record
from perdure.core.retry import Retry


@record
class Work:
    """One step, ready to run: the function with its arguments, and the rules for running it.

    `run` returns the value or an awaitable of it; when `threaded`, it is called on a thread and returns the value.
    `encode` turns the value into what is recorded. `reconcile` asks whether it has happened: a value, or None.
    """

    run: Callable[[], Any]
    encode: Callable[[Any], bytes]
    retry: Retry
    useless: tuple[type[Exception], ...] = ()
    timeout: float | None = None
    threaded: bool = False
    at_most_once: bool = False
    retries_unknown: bool = False
    """At most once, but `retry=` was given: its `only_on` proves that a failed attempt did not happen."""
    reconcile: Callable[[], Awaitable[Any]] | None = None
    context: Context | None = None


@record
class RunStep:
    key: str
    name: str
    digest: str
    work: Work


@record
class SetTimer:
    key: str
    when: float


@record
class DropTimer:
    key: str


@record
class StartChild:
    """Start a job. Its row and `ChildStarted` are one transaction; `detached`: nobody waits for its end."""

    key: str
    name: str
    digest: str
    function: str
    arguments: bytes
    call_key: str | None
    after: float | None
    detached: bool
    options: Any
    """The job's call options, opaque to the core."""


@record
class JoinCall:
    """Wait for the end of a call that is not this body's own; giving up waiting cancels nothing."""

    key: str
    name: str
    digest: str
    call_id: str


@record
class AwaitEnd:
    """No command: what a `StartChild` or `JoinCall` is from its `ChildStarted` on; `own`: the body's own child."""

    key: str
    call_id: str
    own: bool


@record
class UseStore:
    """Read or write a store. The write and its `StoreReturned` are one transaction."""

    key: str
    name: str
    digest: str
    store: str
    operation: Any
    """One of `engine.StoreOperation`, opaque to the core."""


@record
class AskQuestion:
    """Ask a person or a model something. What is shown of it and `Asked` are one transaction."""

    key: str
    name: str
    digest: str
    question: Any
    """`engine.QuestionAsk`, opaque to the core."""


@record
class AwaitAnswer:
    """No command: what an `AskQuestion` is from its `Asked` on."""

    key: str
    question: str


@record
class Abandon:
    """The body no longer waits for `key`: a step is cancelled, a child asked to cancel, a question withdrawn."""

    key: str


@record
class Mark:
    """Rides in the commit of its feed as `Marked`."""

    key: str
    change: str


@record
class SetStatus:
    text: str
    data: bytes | None


@record
class ReportProgress:
    progress: float
    total: float | None
    message: str | None


Level = Literal["debug", "info", "warning", "error"]


@record
class SendLog:
    level: Level
    data: bytes
    logger: str | None


@record
class NotifyChange:
    """Tell clients that a list changed, or that the resource at `uri` did."""

    what: Literal["tools", "prompts", "resources", "resource"]
    uri: str | None = None


@record
class Complete:
    value: bytes


@record
class Fail:
    error: bytes


@record
class EndCancelled:
    """The body ended by the cancellation that was asked for."""


@record
class ContinueAs:
    """The call goes on from its start, with these arguments and a new journal."""

    arguments: bytes


Tell = SetStatus | ReportProgress | SendLog | NotifyChange
"""What a body says without waiting for an answer."""

Finish = Complete | Fail | EndCancelled | ContinueAs

Ask = RunStep | StartChild | JoinCall | UseStore | AskQuestion | AwaitEnd | AwaitAnswer
"""What a body waits for and can give up."""

Decided = UseStore | StartChild | JoinCall | AskQuestion
"""Whose outcome only a transaction knows."""

Command = RunStep | SetTimer | DropTimer | Decided | Abandon | Mark | Tell | Finish
