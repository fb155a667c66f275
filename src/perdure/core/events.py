"""The journal's alphabet: what can have happened to a call.

An event is never edited or given another meaning: a new meaning is a new kind, and the old one stays
decodable. `at` is the time of the event in POSIX seconds. `key` is the ask that an event answers:
the path of the asking task and the n-th ask in it (`0/1`, `0.2/1`). Values and errors are payloads of `codec`.
"""

from __future__ import annotations

from perdure.core.record import record


@record
class Started:
    """The first event of every journal; `seed` feeds `ctx.random` and `ctx.uuid4`."""

    at: float
    seed: int
    python: str


@record
class Resumed:
    """The call was loaded again, and time had passed."""

    at: float


@record
class StepReturned:
    key: str
    name: str
    digest: str
    value: bytes
    attempts: int
    began: float
    at: float


@record
class StepRaised:
    """A step gave up; `error` is what the body gets."""

    key: str
    name: str
    digest: str
    error: bytes
    attempts: int
    began: float
    at: float


@record
class StepLate:
    """What an abandoned step came to: for the timeline, fed to nobody."""

    key: str
    name: str
    error: bytes | None
    attempts: int
    began: float
    at: float


@record
class TimerFired:
    """`at` is the later of the timer's due time and the clock when it was fed."""

    key: str
    at: float


@record
class Signalled:
    name: str
    value: bytes
    at: float


@record
class CancelAsked:
    reason: str
    at: float


@record
class ChildStarted:
    """`call_id` is what `start` decided: a new call, or with a key perhaps one that ran already."""

    key: str
    name: str
    digest: str
    call_id: str
    at: float


@record
class ChildRefused:
    key: str
    name: str
    digest: str
    error: bytes
    at: float


@record
class ChildEnded:
    """The end of a child whose result the body waits for; one of `value` and `error` is there."""

    key: str
    call_id: str
    value: bytes | None
    error: bytes | None
    at: float


@record
class StoreReturned:
    """The reply of a store, in the same transaction as what was written."""

    key: str
    name: str
    digest: str
    value: bytes
    at: float


@record
class Asked:
    """Whether a question could be asked, and under which name: no other of the call's has it, ever.

    With an `error` nobody could be asked, and `question` is empty.
    """

    key: str
    name: str
    digest: str
    question: str
    error: bytes | None
    at: float


@record
class Answered:
    """`value` is the answer as its asker sent it; the body finds out whether it fits."""

    key: str
    question: str
    value: bytes
    at: float


@record
class Marked:
    """`ctx.patched` took the new way here; read before replay begins, fed to nobody."""

    key: str
    change: str
    at: float


@record
class Completed:
    value: bytes
    at: float


@record
class Failed:
    error: bytes
    at: float


@record
class Cancelled:
    reason: str
    at: float


End = Completed | Failed | Cancelled
"""How a call ends; the last event of its journal."""

Fed = (
    Started
    | Resumed
    | StepReturned
    | StepRaised
    | TimerFired
    | Signalled
    | CancelAsked
    | ChildStarted
    | ChildRefused
    | ChildEnded
    | StoreReturned
    | Asked
    | Answered
)
"""What a body is fed, live and in replay."""

Event = Fed | StepLate | Marked | End
