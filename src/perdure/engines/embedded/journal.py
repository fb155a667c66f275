"""The private seam of the embedded engine: every write and every read of its storage, as values.

A write is one unit of a group commit: it happens whole or not at all, whatever its neighbours in the
batch do. Writes on a call carry the epoch of the claim, and fail with `Fenced` when an other claim came later.
Times are POSIX seconds; `n` is a call's integer key, `call_id` the one that people see.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

from perdure.core.call import Status
from perdure.core.events import Asked, ChildRefused, ChildStarted, End, Event, Fed
from perdure.core.record import keyword_record, record
from perdure.engine import (
    Accepted,
    CallView,
    Delivery,
    GetEntry,
    ListEntries,
    Page,
    Principal,
    Progress,
    Query,
    Question,
    QuestionAsk,
    Request,
    StoreOperation,
    StoreReply,
)
from perdure.errors import StorageError

T = TypeVar("T")


class Fenced(Exception):
    """Somebody claimed the call after us: nothing was written, and nothing of ours may leave."""


class Write(Generic[T]):
    """A write whose result is a T."""

    __slots__ = ()


class Read(Generic[T]):
    """A question to the storage whose answer is a T; it sees what is committed."""

    __slots__ = ()


# --- what a worker gets ---------------------------------------------------------------------------


@keyword_record
class Held:
    """A call that this process owns, as it was when it got it."""

    n: int
    epoch: int
    view: CallView
    arguments: bytes
    caller: str | None
    principal: Principal | None
    seed: int
    python: str
    starts: float
    """When its body begins: at its creation, or after its delay."""
    deadline: float | None
    crashes: int
    """Lives in a row that ended with their process dead and nothing recorded in between, this claim's included."""
    begun: bool
    """A whole step: an earlier life began it."""
    run: int = 0
    """How often it went on with a new journal."""
    is_first: bool = True
    """Nobody had it before: nothing that its body asks for can have begun."""


@record
class Attempt:
    """How far a step that has no outcome yet has come; `ended` false: an attempt was begun and not finished."""

    key: str
    name: str
    count: int
    ended: bool
    first_began: float
    last_began: float
    first_error: str | None
    last_error: str | None
    next_at: float | None


@record
class InboxRow:
    row: int
    event: Fed


@record
class Claimed:
    """What a claim loads: enough to replay and go on. `events` begin after `Started`, which `held` describes."""

    held: Held
    events: tuple[Event, ...]
    attempts: tuple[Attempt, ...]
    inbox: tuple[InboxRow, ...]
    unreadable: StorageError | None = None
    """Why its journal cannot be read: written by a newer perdure, or damaged. The others of a claim can go on."""


@record
class Process:
    """A process that has the file open; it is alive as long as its lock file `name` is locked."""

    id: int
    name: str
    pid: int
    port: int


@record
class Delivered:
    """Where it went, so that the owner can be told; `owner` is None where any worker may claim it now."""

    n: int
    owner: int | None
    ended: bool = False
    """A cancel ended the call, which was stuck."""
    parents: tuple[Delivered, ...] = ()
    """Who was told of that end, or sees what was delivered."""
    changed: str | None = None
    """The id of the call when nothing lies in its inbox, and only what it shows is another: a child's question."""


# --- writes on a call that is held ----------------------------------------------------------------


@record
class Overtaken:
    """What a unit that `gives_way` came to: an answer was there before it. Nothing of it is written, the call is
    nobody's and due at once, and whatever its owner wrote since is fenced: the next life takes the answer first."""


@keyword_record
class Append(Write[tuple[Delivered, ...] | Overtaken]):
    """Everything that one feed wrote for one call.

    Consumed inbox rows are deleted; a step's outcome deletes nothing of its attempts, which the timeline shows.
    `end` frees or keeps the key, tells waiting parents through their inboxes, and gives up ownership. `park`
    gives up ownership until `wake_at` or until something arrives (if something has arrived already: at once).
    """

    n: int
    epoch: int
    at: float
    events: tuple[Event, ...]
    status: Status
    consumed: tuple[int, ...] = ()
    status_text: str | None = None
    status_data: bytes | None = None
    progress: Progress | None = None
    end: End | None = None
    unfollowed: tuple[str, ...] = ()
    """Places where the body waited for the end of a call, and does no longer: it is not told. A child that it started
    gets a cancel into its inbox, once, unless it has ended or somebody else waits for it too. What was shown here of
    its questions is shown there then. An end gives up all."""
    withdrawn: tuple[str, ...] = ()
    """Places of questions whose answers nobody waits for any more."""
    gives_way: bool = False
    """Nothing but a time that came led to it: an answer to one of the `withdrawn` that is in the inbox comes first."""
    unsent: tuple[str, ...] = ()
    """Signals among the consumed that did not count: a `once` one may come again."""
    keeps_key: bool = False
    """Of an end that did not complete: the outcome is unknown, so the key stays taken until an operator's retry."""
    park: bool = False
    wake_at: float | None = None

    # The result: the parents that were told of the end, and the children that were asked to cancel.


@record
class NoteAttempt(Write[None]):
    """An attempt begins (an at-most-once step, a whole step in a later life) or ended and will be tried again.

    It resets the count of crashes; `status` is the call's while it waits for the next attempt.
    """

    n: int
    epoch: int
    attempt: Attempt
    status: Status


@record
class AppendStore(Write[StoreReply]):
    """Use a store and append its `StoreReturned`, in one transaction."""

    n: int
    epoch: int
    at: float
    key: str
    name: str
    digest: str
    store: str
    operation: StoreOperation


@record
class AppendChild(Write[ChildStarted | ChildRefused]):
    """Decide a child's `start` and append what was decided, in one transaction.

    A new child is unowned and due at once (or after `request.after`). Not `detached`: its end goes to the
    parent's inbox as `ChildEnded`; at once if it has ended already.
    """

    n: int
    epoch: int
    at: float
    key: str
    name: str
    digest: str
    request: Request
    detached: bool


@record
class AppendJoin(Write[ChildStarted | ChildRefused]):
    """Wait in a body for a call that is not its child; refused with `CallNotFound`."""

    n: int
    epoch: int
    at: float
    key: str
    name: str
    digest: str
    call_id: str


@record
class AppendQuestion(Write["QuestionAsked"]):
    """Decide whether a question can be asked, show it, and append its `Asked`, in one transaction."""

    n: int
    epoch: int
    at: float
    key: str
    name: str
    digest: str
    ask: QuestionAsk


@record
class QuestionAsked:
    asked: Asked
    told: tuple[Delivered, ...]
    """The ancestor that shows it, if the call itself does not."""


@keyword_record
class Continue(Write["Continued"]):
    """The call goes on with a new journal and these arguments. What its last body asked for is given up: children are
    cancelled, questions withdrawn. Signals stay: those that the body did not receive come before those of the inbox.
    """

    n: int
    epoch: int
    at: float
    arguments: bytes
    consumed: tuple[int, ...]
    unheard: tuple[tuple[str, bytes], ...]
    seed: int
    python: str


@record
class Continued:
    held: Held
    told: tuple[Delivered, ...]


@record
class MarkStuck(Write["Delivered | None"]):
    """Nothing is appended; ownership is given up. `diverged`: each newly started process tries once more.

    A cancel that lies in the inbox ends the call at once: the result is as a `Deliver`'s.
    """

    n: int
    epoch: int
    at: float
    failure: bytes
    diverged: bool


@record
class Yield(Write[None]):
    """Give a call back for others to claim at once: on the way out, or because an engine lost its function.

    `begun`: something of it ran in this life, so that a later one is not its first.
    """

    n: int
    epoch: int
    begun: bool = False


@record
class ForgetCrashes(Write[None]):
    """Replay showed that no step ran when the process died."""

    n: int
    epoch: int


# --- writes from outside --------------------------------------------------------------------------


@record
class Started:
    """`held` when the call is new and this process owns it, which it does unless it is delayed or not served here."""

    accepted: Accepted
    held: Held | None


@keyword_record
class StartCall(Write[Started]):
    """Decide what call a request gets, under the write lock; raises `Refused` in the result.

    A new call has `call_id`. The order: the client's idempotency key; the caller's own orphan; the tool's key;
    `attach_identical`; a new call. One that `resumes` a call gets that one, or fails with CallNotFound. `process`
    owns the new call if `own`; else it is unowned and due at once.
    """

    request: Request
    call_id: str
    process: int
    own: bool
    at: float
    seed: int
    python: str


@record
class LetGo(Write[None]):
    """A request no longer waits; `handed`: the call's last reply was given to it, perhaps after it had let go.

    `resumable`: its client may still get its answer over another connection, which a second one then says.
    """

    request: str
    handed: bool
    resumable: bool = False


@record
class Deliver(Write[Delivered]):
    """Put a signal, an answer or a cancel into a call's inbox. Fails with CallNotFound, CallEnded, AlreadyAnswered.
    An answer to a question that the call never showed: Refused.

    A cancel of a stuck call ends it. A cancel with a caller lets go of a shared call; the last one cancels it.
    """

    call_id: str
    delivery: Delivery
    at: float


@record
class RetryCall(Write[Accepted]):
    """What an operator asks for. A stuck call becomes unowned and due, its count of crashes zero."""

    call_id: str
    new_call_id: str
    at: float
    seed: int
    python: str


@record
class ReleaseCall(Write[Delivered]):
    """Raise the epoch, so that the owner is fenced, and make the call due for anyone. Fails with CallEnded."""

    call_id: str


@record
class UseStoreOnce(Write[StoreReply]):
    """From outside a body, in a transaction of its own."""

    store: str
    operation: StoreOperation


# --- writes of a worker ---------------------------------------------------------------------------


@record
class Claim(Write[tuple[Claimed, ...]]):
    """Own up to `limit` unowned calls that are due, oldest due first, of these functions. Raises their epochs."""

    process: int
    functions: frozenset[str]
    now: float
    limit: int


@record
class Register(Write[int]):
    """Make this process known; its id. Diverged calls of its functions become due once more."""

    name: str
    pid: int
    port: int
    at: float


@record
class Offer(Write[None]):
    """This process runs calls of these functions; those that are stuck because they diverged become due once."""

    process: int
    functions: frozenset[str]
    at: float


@record
class TakeOver(Write[int]):
    """The process is dead: its calls become due with one more crash each, its requests wait no more. How many calls."""

    process: int


@record
class Leave(Write[None]):
    """The process goes in good order: what it still owns becomes due without a crash counted."""

    process: int


@record
class RemoveExpired(Write[int]):
    """Remove up to `limit` ended calls that were kept long enough, with all that is theirs. How many."""

    now: float
    limit: int


# --- reads ----------------------------------------------------------------------------------------


@record
class View(Read[CallView]):
    """Raises CallNotFound."""

    call_id: str


@record
class FindCalls(Read[Page]):
    query: Query


@record
class HolderOf(Read[CallView | None]):
    """The call that holds a key now; `caller` None: anybody's."""

    tool: str
    key: str
    caller: str | None


@record
class Record:
    """All that is kept of one call. `events` include `Started` and the end; `began` times are POSIX seconds."""

    view: CallView
    arguments: bytes
    events: tuple[Event, ...]
    attempts: tuple[Attempt, ...]
    inbox: tuple[InboxRow, ...]
    caller: str | None = None
    principal: Principal | None = None
    deadline: float | None = None


@record
class ReadRecord(Read[Record]):
    call_id: str


@record
class ReadInbox(Read[tuple[InboxRow, ...]]):
    n: int
    after: int = 0
    """Only rows that came after this one."""


@record
class OpenQuestions(Read[tuple[Question, ...]]):
    """What a call shows of what it and its children ask, oldest first."""

    n: int


@record
class LastHolder(Read[CallView | None]):
    """The call that holds the greatest of the keys from `first` to `last`, which are of one length."""

    tool: str
    first: str
    last: str
    caller: str | None
    """None: of shared calls."""


@record
class LookIntoStore(Read[StoreReply]):
    store: str
    operation: GetEntry | ListEntries


@record
class Arrived(Read[tuple[int, ...]]):
    """The calls (`n`) of this process in whose inbox something lies: what a lost hint would have said."""

    process: int


@record
class Owned(Read[frozenset[tuple[int, int]]]):
    """The calls that this process owns: each one's `n` and the epoch of its claim."""

    process: int


@record
class NextDue(Read[float | None]):
    """When the next unowned call of these functions is due; None when nothing is."""

    functions: frozenset[str]


@record
class Processes(Read[tuple[Process, ...]]):
    pass


@record
class NextExpiry(Read[float | None]):
    pass


Then = Callable[[Any, "BaseException | None"], None]
"""Called on the engine's loop once the write is committed, with its result or with why it was not."""


class Journal(Protocol):
    """Where calls are kept. `write`s of one journal take effect in the order in which they were given."""

    async def open(self) -> None:
        """Open or make the storage, migrate it. Raises StorageError."""
        ...

    async def close(self) -> None:
        """Everything that was given is committed or has failed when this returns."""
        ...

    def write(self, write: Write[Any], then: Then) -> None: ...

    def write_soon(self, write: Write[None]) -> None:
        """Rides with the next commit, or goes after a moment of its own."""
        ...

    async def read(self, read: Read[T]) -> T: ...

    @property
    def changed_elsewhere(self) -> bool:
        """Another connection has committed since this was asked last (SQLite's data_version); cheap."""
        ...


async def commit(journal: Journal, write: Write[T]) -> T:
    """Write, and wait for the commit."""
    import asyncio

    future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

    def settle(result: T, error: BaseException | None) -> None:
        if future.done():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    journal.write(write, settle)
    return await future
