"""Every error that perdure raises, and who can act on it.

PerdureError
├── StepFailed            the author of the body: a step gave up
├── CallFailed            the author or the client: a call that was waited for failed
├── OutcomeUnknown        the author, then a person: it may have happened
├── InputUnavailable      the author: nobody can be asked
├── EffectOutsideStep     the author: a body did I/O of its own
├── StepOutsideBody       the author: a step where nothing could record it
├── NotRecordable         the author: a value would not survive recording
├── PayloadTooLarge       the author: a value over the limit
├── Diverged              the author: the code no longer fits the journal
├── Spinning              the author: a body that never lets go
├── Refused               the client: the request cannot be accepted as it is
│   ├── Conflict              other arguments under the same key
│   └── CallerUnknown         keys and idempotency keys need to know who asks
├── CallNotFound          the client: no such call, or another's
├── CallEnded             the client: too late, the call has ended
├── AlreadyAnswered       the client: somebody was faster
├── Stuck                 the operator: the call cannot go on as it is
└── StorageError          the operator: the disk
    ├── StorageFull
    ├── StorageCorrupt
    ├── SchemaTooNew
    └── NetworkFileSystem

`Parked` and `Continued` are no errors: a body is asked to leave memory by the one, and begins anew by the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from perdure.engine import CallView


class PerdureError(Exception):
    """The root of what perdure raises; trying the same again is never the remedy."""


class StepFailed(PerdureError):
    """A step gave up; what it raised last is described here, live and replayed alike."""

    def __init__(self, step: str, type: str, message: str, attempts: int) -> None:
        self.step = step
        self.type = type
        self.message = message
        self.attempts = attempts
        times = "once" if attempts == 1 else f"{attempts} times"
        super().__init__(f"Step {step!r} was tried {times} and failed with {type}: {message}")


class CallFailed(PerdureError):
    """A call that was waited for failed or was cancelled."""

    def __init__(self, call_id: str, type: str, message: str) -> None:
        self.call_id = call_id
        self.type = type
        self.message = message
        super().__init__(f"Call {call_id} ended with {type}: {message}")


class OutcomeUnknown(PerdureError):
    """The step was interrupted, and nothing can tell whether it happened; it is not run again.

    `call` is given where the call is that one step: its code need not know of idempotency keys.
    """

    def __init__(self, step: str, idempotency_key: str, call: str | None = None) -> None:
        self.step = step
        self.idempotency_key = idempotency_key
        self.call = call
        if call is None:
            super().__init__(
                f"Step {step!r} was interrupted and may have happened. "
                f"Look for the idempotency key {idempotency_key} where its effect would be. Only if it did not happen, "
                "retry the call: that runs the step once more, under another key."
            )
        else:
            super().__init__(
                f"{step!r} was interrupted and may have happened, so it is not run again by itself. "
                f"Look where its effect would be; if it did not happen, `perdure retry {call}` runs it once more. "
                "(A tool that may run twice says so: annotated idempotent, or rerun=True.)"
            )


class InputUnavailable(PerdureError):
    """Nobody can be asked, and the question has neither a time-out nor a default."""


class EffectOutsideStep(PerdureError):
    """A body did something that replay would do again."""

    def __init__(self, what: str, call: str = "", where: str = "") -> None:
        self.what = what
        self.call = call
        self.where = where
        place = f" at {where}" if where else ""
        of = f" of call {call}" if call else ""
        super().__init__(
            f"{what} in the body{of}{place}. A body does no I/O of its own: move it into a @step function."
        )


class StepOutsideBody(PerdureError):
    """A step was awaited in a tool that has no journal for it."""

    def __init__(self, step: str) -> None:
        self.step = step
        super().__init__(
            f"Step {step!r} was awaited in a tool without a DurableContext, where nothing records it. "
            "Give the tool a `ctx: DurableContext` parameter, or call the plain function: `.fn(...)`."
        )


class NotRecordable(PerdureError, TypeError):
    """A value or a type that would not come back from the journal as it went in."""

    def __init__(self, what: str, why: str) -> None:
        self.what = what
        self.why = why
        super().__init__(f"{what} cannot be recorded: {why}")


class PayloadTooLarge(PerdureError):
    """One value is over the engine's limit; nothing was recorded."""

    def __init__(self, what: str, size: int, limit: int) -> None:
        self.what = what
        self.size = size
        self.limit = limit
        super().__init__(
            f"{what} has {size:,} bytes, more than the {limit:,} that are recorded. "
            "Keep it elsewhere and return where it is, or raise the engine's payload_limit."
        )


class Diverged(PerdureError):
    """In replay the body asked for something else than its journal has at that place."""

    def __init__(self, recorded: str, asked: str, python: str = "") -> None:
        self.recorded = recorded
        self.asked = asked
        self.python = python
        hint = f" It was recorded on Python {python}." if python else ""
        super().__init__(
            f"The code no longer fits the journal.{hint}\n  recorded: {recorded}\n  asked:    {asked}\n"
            "Deploy code that fits (ctx.patched lets old and new live together), then `perdure retry` the call."
        )


class Spinning(PerdureError):
    """A body that goes on and on without waiting for anything."""

    def __init__(self, call: str, callbacks: int) -> None:
        self.call = call
        self.callbacks = callbacks
        super().__init__(
            f"The body of call {call} went on for {callbacks:,} callbacks without waiting for anything. "
            "Look for a loop around sleep(0), or one that swallows every error; deploy the mended code, "
            "then `perdure retry` the call."
        )


class Refused(PerdureError):
    """A request that cannot be accepted as it is; no call was made."""


class Conflict(Refused):
    """The key is taken by a call with other arguments, which are not shown."""

    def __init__(self, tool: str, key: str, kind: str = "key") -> None:
        self.tool = tool
        self.key = key
        self.kind = kind
        super().__init__(
            f"The {kind} {key!r} of {tool!r} belongs to a call with other arguments. "
            "Send the same arguments to get that call, or use another key."
        )


class CallerUnknown(Refused):
    """Somebody without an identity asked for what only an identity can have."""

    def __init__(self, tool: str, what: str) -> None:
        self.tool = tool
        self.what = what
        super().__init__(
            f"{what} of {tool!r} needs to know who asks, and this request is anonymous. "
            "Set up authentication (auth= or principal=), or let all who ask have one call (shared=True)."
        )


class CallNotFound(PerdureError):
    """There is no such call, or it is another caller's."""

    def __init__(self, call_id: str) -> None:
        self.call_id = call_id
        super().__init__(f"There is no call {call_id}.")


class CallEnded(PerdureError):
    """What was sent came after the end of the call."""

    def __init__(self, view: CallView) -> None:
        self.view = view
        super().__init__(f"Call {view.id} has ended ({view.status}); nothing can be sent to it any more.")


class AlreadyAnswered(PerdureError):
    """A second decision where one counts."""

    def __init__(self, view: CallView, name: str) -> None:
        self.view = view
        self.name = name
        says = f" and says {view.text!r}" if view.text else ""
        super().__init__(f"{name!r} of call {view.id} has been decided already; the call is {view.status}{says}.")


class Stuck(PerdureError):
    """The call cannot go on until its code fits again or an operator acts; nothing of it is lost."""

    def __init__(self, call_id: str, why: str = "") -> None:
        self.call_id = call_id
        self.why = why
        super().__init__(f"Call {call_id} is stuck: {why} An operator can look at it with `perdure call {call_id}`.")


class StorageError(PerdureError):
    """The database cannot be used; what was acknowledged is still there."""


class StorageFull(StorageError):
    """No room on the disk: running calls wait for room, new ones are refused."""


class StorageCorrupt(StorageError):
    """The file is damaged or is no perdure database."""


class SchemaTooNew(StorageError):
    """The file was written by a newer perdure."""

    def __init__(self, path: str, found: int, known: int) -> None:
        self.path = path
        self.found = found
        self.known = known
        super().__init__(
            f"{path} has schema {found}; this version knows {known}. Upgrade perdure, or use another file."
        )


class NetworkFileSystem(StorageError):
    """The file is on a network file system, where locks cannot be trusted."""

    def __init__(self, path: str, kind: str) -> None:
        self.path = path
        self.kind = kind
        super().__init__(f"{path} is on {kind}, where file locks cannot be trusted. Use a local disk.")


FOR_CLIENTS = (
    Refused,
    CallNotFound,
    CallEnded,
    AlreadyAnswered,
    InputUnavailable,
    OutcomeUnknown,
    PayloadTooLarge,
    StorageFull,
    Stuck,
)
"""What clients are told in its own words; all else may quote code and data, and is for the log."""


class Continued(BaseException):
    """Raised in a body that goes on with a new journal; its clean-up still runs."""

    def __init__(self, arguments: bytes) -> None:
        self.arguments = arguments
        super().__init__("the call goes on with a new journal")


class Parked(BaseException):
    """Thrown into a body that leaves memory; whatever it asks from then on raises this again."""
