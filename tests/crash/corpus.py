"""Calls of every kind, what is done to them from outside, and what holds when they are over, crashed or not.

`tests/histories` has journals of these bodies: change none of them, add others.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import suppress
from contextvars import copy_context
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, Literal

from perdure.core.codec import digest
from perdure.core.commands import ReportProgress, SetStatus, Work
from perdure.core.events import Answered, CancelAsked, ChildEnded, Event, Signalled, StepReturned
from perdure.core.retry import ONCE, Retry, TryAgain
from perdure.effects import Effects, running_frame
from perdure.engine import (
    Answer,
    CallView,
    Cancel,
    DeleteEntry,
    Function,
    GetEntry,
    ListEntries,
    Question,
    QuestionAsk,
    Request,
    SetEntry,
    Signal,
    SignalSpec,
    StoreOperation,
    StoreReply,
    SwapEntry,
)
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.journal import Record
from perdure.errors import (
    AlreadyAnswered,
    CallFailed,
    CallNotFound,
    Continued,
    Diverged,
    InputUnavailable,
    OutcomeUnknown,
    Refused,
    StepFailed,
)
from tests.crash.outside import outside
from tests.crash.outside import times as times_of
from tests.engines.functions import ANY, body, child_ask, request_for, step, whole

SOON = Retry(attempts=5, first=timedelta(seconds=0.02), factor=1)


async def sleep(units: float) -> None:
    await asyncio.sleep(units * outside.unit)


# --- what is done from outside --------------------------------------------------------------------


def at_once(record: Record) -> bool:
    return True


def has_run(name: str) -> Callable[[Record], bool]:
    """The outcome of a step of this name is recorded."""
    return lambda record: any(isinstance(e, StepReturned) and e.name == name for e in record.events)


def is_waiting(record: Record) -> bool:
    return record.view.status == "waiting"


def count(record: Record, wanted: Callable[[Event], bool]) -> int:
    """How many came, taken or not."""
    return sum(wanted(e) for e in record.events) + sum(wanted(row.event) for row in record.inbox)


@dataclass
class Send:
    """The `nth` signal of its name."""

    name: str
    value: Any
    when: Callable[[Record], bool] = at_once
    nth: int = 1

    async def do(self, engine: Embedded, record: Record) -> None:
        if count(record, lambda e: isinstance(e, Signalled) and e.name == self.name) < self.nth:
            await engine.deliver(record.view.id, Signal(self.name, json.dumps(self.value).encode()))


@dataclass
class Ask:
    """The `nth` cancel."""

    when: Callable[[Record], bool] = is_waiting
    nth: int = 1
    reason: str = "enough"

    async def do(self, engine: Embedded, record: Record) -> None:
        if count(record, lambda e: isinstance(e, CancelAsked)) < self.nth:
            await engine.deliver(record.view.id, Cancel(self.reason))


@dataclass
class Do:
    """Whatever may be done twice."""

    what: Callable[[Embedded, CallView], Coroutine[Any, Any, None]]
    when: Callable[[Record], bool] = at_once

    async def do(self, engine: Embedded, record: Record) -> None:
        await self.what(engine, record.view)


@dataclass
class Reply:
    """The answer to a question that is shown."""

    question: str
    value: Any

    def when(self, record: Record) -> bool:
        return any(question.name == self.question for question in record.view.questions) or self._is_answered(record)

    def _is_answered(self, record: Record) -> bool:
        """Before a crash; what a child asked it knows, and is over with."""
        mine = count(record, lambda e: isinstance(e, Answered) and e.question == self.question)
        return mine > 0 or any(isinstance(e, ChildEnded) for e in record.events)

    async def do(self, engine: Embedded, record: Record) -> None:
        with suppress(AlreadyAnswered):  # before a crash
            await engine.deliver(record.view.id, Answer(self.question, json.dumps(self.value).encode()))


Action = Send | Ask | Do | Reply


# --- a scenario -----------------------------------------------------------------------------------


@dataclass
class Scenario:
    """`results` are all that its first function may return; an `OutcomeUnknown` is one where something is done at most
    once. `times` says of effects how often they are had without a crash; at most once if in `once`."""

    function: Function
    results: tuple[Any, ...] = ()
    others: tuple[Function, ...] = ()
    argument: Any = None
    status: str = "completed"
    errors: tuple[str, ...] = ()
    actions: tuple[Action, ...] = ()
    times: dict[str, int] = field(default_factory=dict[str, int])
    once: tuple[str, ...] = ()
    stored: dict[str, str] = field(default_factory=dict[str, str])
    """What is in the store `things` at the end, in the scope of its name."""
    children: Sequence[str] = ()
    """The statuses of all other calls at the end."""
    gives_up: bool = False
    """A crash may come before the children are started, and then they are not."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    text: str | None = None
    on_threads: bool = False

    @property
    def name(self) -> str:
        return self.function.tool

    @property
    def functions(self) -> tuple[Function, ...]:
        return (self.function, *self.others)

    def request(self) -> Request:
        """Asked again it gets the same call."""
        return request_for(self.function, self.argument, idempotency_key=f"the {self.name}", **self.options)

    def check(self, view: CallView, others: Sequence[CallView], deaths: int, lines: list[str]) -> None:
        """What holds when all is over: `view` of its call, and those that came of it."""
        if view.status == "completed":
            assert view.result in self.results
        else:
            assert view.status == self.status or (view.status == "failed" and self.errors)
            assert any((view.error or "").startswith(error) for error in self.errors), view.error
        if self.text is not None:
            assert view.text == self.text
        # A crash may come before a child that is given up was started at all.
        ends = sorted(other.status for other in others)
        missing = deaths and self.gives_up and not Counter(ends) - Counter(self.children)
        assert ends == sorted(self.children) or missing
        calls = {view.id, *(other.id for other in others)}
        for what, times in self.times.items():
            had = times_of(what, calls, lines)
            least = 0 if what in self.once and deaths else times
            assert least <= had <= times + (0 if what in self.once else deaths), what


def happen(what: str) -> str:
    """The effect of a step."""
    outside.happen(what)
    return what


def act(effects: Effects, what: str) -> Awaitable[str]:
    return step(effects, happen, what, name=what)


async def forever(what: str) -> None:
    outside.happen(what)
    await asyncio.Event().wait()


# --- one thing after another ----------------------------------------------------------------------


async def sequential(effects: Effects, up_to: int) -> list[str]:
    return [await act(effects, f"n{n}") for n in range(up_to)]


async def sleeping(effects: Effects, _: None) -> bool:
    began = effects.now()
    await asyncio.gather(sleep(3), sleep(5))
    await act(effects, "woken")
    await sleep(2)
    return effects.now() - began >= 7 * outside.unit


async def large(effects: Effects, argument: str) -> int:
    def blow(size: int) -> str:
        outside.happen("blow")
        return "x" * size

    value = await step(effects, blow, 1_500_000)
    return len(value) + len(argument)


async def marked(effects: Effects, _: None) -> list[Any]:
    first = await act(effects, "first") if effects.patched("another first") else "?"
    await act(effects, "second")
    return [first, effects.patched("another end")]


async def telling(effects: Effects, _: None) -> str:
    effects.tell(SetStatus("beginning", None))
    await act(effects, "work")
    effects.tell(ReportProgress(1, 2, "half"))
    await used(effects, SetEntry("telling", "half", b"1"))
    effects.tell(SetStatus("half", b'{"n":1}'))
    await sleep(1)
    return "told"


async def raising(effects: Effects, _: None) -> None:
    await act(effects, "begin")
    raise LookupError("no such place")


# --- side by side ---------------------------------------------------------------------------------


async def branches(effects: Effects, _: None) -> list[list[str]]:
    async def branch(name: str) -> list[str]:
        return [await act(effects, f"{name}{n}") for n in range(3)]

    return list(await asyncio.gather(*(branch(name) for name in "abc")))


async def group(effects: Effects, _: None) -> list[str]:
    """One fails when the others wait; they clean up with steps."""
    cleaned: list[str] = []

    def fail() -> None:
        outside.happen("fail")
        raise ValueError("no")

    async def waits(name: str) -> None:
        try:
            await effects.receive("never", ANY.decode)
        finally:
            cleaned.append(await act(effects, f"undo {name}"))

    async def fails() -> None:
        await step(effects, fail)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(waits("a"))
            tasks.create_task(fails())
            tasks.create_task(waits("b"))
    except* ValueError as errors:
        cleaned.append(str(errors.exceptions[0]))
    return sorted(cleaned)  # in which order they clean up, chance decides: once for each call


async def race(effects: Effects, _: None) -> list[str]:
    async def loses() -> None:
        await step(effects, forever, "loser")

    async def wins() -> str:
        return await act(effects, "winner")

    loser, winner = asyncio.ensure_future(loses()), asyncio.ensure_future(wins())
    done, _pending = await asyncio.wait({loser, winner}, return_when=asyncio.FIRST_COMPLETED)
    loser.cancel()
    return [task.result() or "" for task in done] + [await act(effects, "afterwards")]


async def timing_out(effects: Effects, _: None) -> list[str]:
    said: list[str] = []
    try:
        async with asyncio.timeout(4 * outside.unit):
            await step(effects, forever, "slow")
    except TimeoutError:
        said.append("late")
    said.append(await act(effects, "afterwards"))
    async with asyncio.timeout(100_000 * outside.unit):
        said.append(await act(effects, "in time"))
    return said


async def stays(what: str) -> str:
    """It will not be cancelled."""
    outside.happen(what)
    try:
        await asyncio.Event().wait()
    except asyncio.CancelledError:
        return what
    return ""


async def given_up_late(effects: Effects, _: None) -> str:
    """What a step comes to that was given up is for the timeline."""
    try:
        async with asyncio.timeout(outside.unit):
            await step(effects, stays, "stay")
    except TimeoutError:
        await sleep(1)
        return await act(effects, "afterwards")
    return ""


# --- steps that fail ------------------------------------------------------------------------------


def attempt() -> int:
    frame = running_frame.get()
    assert frame is not None
    return frame.attempt


async def retried(effects: Effects, _: None) -> int:
    def flaky() -> int:
        outside.happen("flaky")
        if attempt() < 3:
            raise ConnectionError("refused")
        return attempt()

    return await step(effects, flaky, retry=SOON)


async def timed_out(effects: Effects, _: None) -> str:
    try:
        await step(effects, forever, "hang", timeout=0.005, retry=Retry(attempts=2, first=timedelta(0)))
    except TimeoutError as error:
        return type(error).__name__
    return ""


async def paying(effects: Effects, _: None) -> str:
    try:
        return await step(effects, happen, "pay", name="pay", at_most_once=True)
    except OutcomeUnknown:
        return "unknown"


async def paying_again(effects: Effects, _: None) -> str:
    """Refused connections prove that it did not happen."""

    def pay() -> str:
        outside.happen("try" if attempt() == 1 else "pay")
        if attempt() == 1:
            raise ConnectionError("refused")
        return "paid"

    policy = Retry(attempts=3, first=timedelta(seconds=0.02), only_on=(ConnectionError,))
    try:
        return await step(effects, pay, at_most_once=True, retry=policy)
    except OutcomeUnknown:
        return "unknown"


async def reconciled(effects: Effects, _: None) -> str:
    """Whoever is paid knows; asked first, nobody is paid twice."""

    def pay() -> str:
        outside.happen("pay")
        if attempt() == 1:
            raise ConnectionError("the answer was lost")
        return "paid"

    async def ask() -> str | None:
        return "found" if outside.has_happened_here("pay") else None

    return await step(effects, pay, reconcile=ask, retry=SOON)


class Strange(Exception):
    def __init__(self, socket: object) -> None:
        super().__init__("strange")


async def errors(effects: Effects, _: None) -> list[str]:
    def fail(kind: str) -> None:
        outside.happen(kind)
        raise {
            "value": ValueError("no"),
            "key": KeyError("sku"),
            "strange": Strange(object()),
            "group": ExceptionGroup("two", [ValueError("a"), Strange(object())]),
            "exit": SystemExit(3),
            "cancelled": asyncio.CancelledError(),
            "generator": GeneratorExit(),
        }[kind]

    async def ends(kind: str) -> str:
        try:
            await step(effects, fail, kind)
        except StepFailed as failed:
            return f"StepFailed {failed.type}"
        except Exception as error:
            return f"{type(error).__name__} {error}"
        return ""

    kinds = ("value", "key", "strange", "group", "exit", "cancelled", "generator")
    return [await ends(kind) for kind in kinds[:3]] + list(await asyncio.gather(*(ends(kind) for kind in kinds[3:])))


async def on_threads(effects: Effects, _: None) -> list[str]:
    return list(
        await asyncio.gather(
            *(step(effects, happen, f"thread {n}", name=f"thread {n}", threaded=True) for n in range(3))
        )
    )


# --- children -------------------------------------------------------------------------------------


async def doubled(effects: Effects, n: int) -> int:
    await act(effects, f"double {n}")
    return 2 * n


async def failing(effects: Effects, _: Any) -> None:
    await act(effects, "fail")
    raise ValueError("no")


async def waiting(effects: Effects, _: Any) -> None:
    try:
        await effects.receive("never", ANY.decode)
    finally:
        await act(effects, "undo child")


def is_over_soon(name: str, main: Callable[..., Coroutine[Any, Any, Any]]) -> Function:
    return body(main, name=name, kind="job")


async def dozing(effects: Effects, n: int) -> int:
    await asyncio.sleep(12 * outside.unit)
    return 2 * n


double, fail, wait, doze = (is_over_soon(main.__name__, main) for main in (doubled, failing, waiting, dozing))


async def parenting(effects: Effects, _: None) -> list[int]:
    first = await asyncio.gather(*(effects.child(child_ask(double, n), ANY.decode) for n in range(3)))
    return [*first, await effects.child(child_ask(double, 10), ANY.decode)]


async def sharing(effects: Effects, _: None) -> list[Any]:
    """Two asks with one key are one child; with other arguments they are refused."""
    same = await asyncio.gather(*(effects.child(child_ask(double, 7, key="seven"), ANY.decode) for _ in range(2)))
    try:
        await effects.child(child_ask(double, 8, key="seven"), ANY.decode)
    except Refused as error:
        return [*same, type(error).__name__]
    return [*same]


async def detaching(effects: Effects, _: None) -> int:
    call_id = await effects.detach(child_ask(double, 4))
    return await effects.join(call_id, ANY.decode)


async def joining_in_vain(effects: Effects, _: None) -> list[Any]:
    """The end that it gave up waiting for reaches it where it waits once more, and nowhere else."""
    call_id = await effects.detach(child_ask(doze, 4))
    said: list[Any] = []
    try:
        async with asyncio.timeout(4 * outside.unit):
            await effects.join(call_id, ANY.decode)
    except TimeoutError:
        said.append(await act(effects, "late"))
    return [*said, await effects.join(call_id, ANY.decode)]


async def mourning(effects: Effects, _: None) -> list[str]:
    said: list[str] = []
    try:
        await effects.child(child_ask(fail, 1), ANY.decode)
    except CallFailed as failed:
        said.append(failed.type)
    try:
        await effects.join("no-such-call", ANY.decode)
    except CallNotFound as error:
        said.append(type(error).__name__)
    return said


async def giving_up(effects: Effects, _: None) -> str:
    """The child that nobody waits for any more is cancelled, and cleans up."""
    try:
        async with asyncio.timeout(4 * outside.unit):
            await effects.child(child_ask(wait, 1), ANY.decode)
    except TimeoutError:
        return await act(effects, "late")
    return ""


async def giving_up_at_once(effects: Effects, _: None) -> str:
    """It is given up when its start is on the way to the disk."""

    async def finds() -> None:
        await used(effects, GetEntry("giving_up_at_once", "absent"))
        raise ValueError("absent")

    async def starts() -> None:
        await effects.child(child_ask(wait, 1), ANY.decode)

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(finds())
            tasks.create_task(starts())
    except* ValueError:
        pass
    return await act(effects, "late")


async def ending_at_once(effects: Effects, _: None) -> None:
    """The same, and nothing comes after it."""

    async def finds() -> None:
        await used(effects, GetEntry("ending_at_once", "absent"))
        raise ValueError("absent")

    await asyncio.gather(finds(), effects.child(child_ask(wait, 1), ANY.decode))


async def cancelled_parent(effects: Effects, _: None) -> None:
    await effects.child(child_ask(wait, 1), ANY.decode)


async def crowded(effects: Effects, _: None) -> list[int]:
    return list(await asyncio.gather(*(effects.child(child_ask(nap, n), ANY.decode) for n in range(3))))


async def napping(effects: Effects, n: int) -> int:
    await used(effects, SetEntry("crowded", str(n), b"1"))
    await sleep(2 + n)

    def flaky() -> int:
        outside.happen(f"nap {n}")
        if attempt() < 2:
            raise ConnectionError("refused")
        return n

    return await step(effects, flaky, retry=SOON)


nap = is_over_soon("napping", napping)


# --- stores ---------------------------------------------------------------------------------------


async def used(effects: Effects, operation: StoreOperation) -> StoreReply:
    return StoreReply.from_bytes(await effects.store("things", operation))


async def counting(effects: Effects, _: None) -> list[str]:
    async def add_one() -> None:
        while True:
            read = await used(effects, GetEntry("counting", "n"))
            before = read.entries[0][1] if read.entries else None
            after = str(int(before or b"0") + 1).encode()
            if (await used(effects, SwapEntry("counting", "n", before, after))).done:
                return

    await asyncio.gather(*(add_one() for _ in range(3)))
    await asyncio.gather(*(used(effects, SetEntry("counting", key, b'"x"')) for key in "abc"))
    await used(effects, DeleteEntry("counting", "b"))
    listed = await used(effects, ListEntries("counting"))
    return [key for key, _ in listed.entries]


async def storing_with_steps(effects: Effects, _: None) -> list[Any]:
    """Steps end while the database decides."""

    async def works(n: int) -> str:
        return await act(effects, f"work {n}")

    async def stores(n: int) -> bool:
        await works(10 + n)
        return (await used(effects, SetEntry("storing_with_steps", f"k{n}", b"1"))).done

    return list(await asyncio.gather(works(0), stores(0), works(1), stores(1)))


# --- signals, cancels, deadlines ------------------------------------------------------------------


async def hearing(effects: Effects, _: None) -> list[Any]:
    heard: list[Any] = [await effects.receive("early", ANY.decode)]
    await act(effects, "listen")
    heard.append(await effects.receive("late", ANY.decode))
    for _n in range(3):
        heard.append(await effects.receive("many", ANY.decode))
    return heard


async def impatient(effects: Effects, _: None) -> list[Any]:
    """A receive that is given up takes nothing."""
    try:
        async with asyncio.timeout(2 * outside.unit):
            await effects.receive("never", ANY.decode)
    except TimeoutError:
        await act(effects, "gave up")
    return [await effects.receive("decision", ANY.decode)]


async def reserving(effects: Effects, _: None) -> None:
    await act(effects, "reserve")
    try:
        await effects.receive("never", ANY.decode)
    except asyncio.CancelledError:
        await act(effects, "undo one")
        await asyncio.gather(sleep(1), act(effects, "undo two"))
        raise


async def stubborn(effects: Effects, _: None) -> None:
    """Its clean-up never ends."""
    try:
        await effects.receive("never", ANY.decode)
    except asyncio.CancelledError:
        await act(effects, "begin to undo")
        await effects.receive("never", ANY.decode)


async def staying(effects: Effects, _: None) -> str:
    try:
        await effects.receive("never", ANY.decode)
    except asyncio.CancelledError:
        return await act(effects, "stay")
    return ""


async def overdue(effects: Effects, _: None) -> None:
    try:
        await step(effects, forever, "slow")
    finally:
        await act(effects, "undo")


# --- an operator's hand ---------------------------------------------------------------------------


async def stumbling(effects: Effects, _: None) -> str:
    """What is recorded fits its code only when that is mended."""

    def decode(recorded: bytes) -> str:
        if not outside.has_happened("mended"):
            raise Diverged("a string", "a number")
        return ANY.decode(recorded)

    work = Work(lambda: happen("first"), ANY.encode, ONCE, context=copy_context())
    return await effects.step("first", digest((), {}), work, decode)


async def mend(engine: Embedded, view: CallView) -> None:
    outside.note("mended")
    await engine.retry(view.id)


def is_stuck(record: Record) -> bool:
    return record.view.status == "stuck"


async def released(effects: Effects, _: None) -> list[str]:
    first = await act(effects, "first")
    await effects.receive("go", ANY.decode)
    return [first, await act(effects, "second")]


async def release(engine: Embedded, view: CallView) -> None:
    await engine.release(view.id)


async def let_go(engine: Embedded, view: CallView) -> None:
    engine.let_go("a request", handed=False)


async def set_from_outside(engine: Embedded, view: CallView) -> None:
    await engine.store("things", SetEntry("released", "outside", b"1"))


async def drain(engine: Embedded, view: CallView) -> None:
    """Give everything back, and come back."""
    if engine.path is not None:
        return  # processes of their own have ends of their own
    assert engine.worker is not None
    await engine.worker.drain(0)
    await engine.crash()


# --- whole steps ----------------------------------------------------------------------------------


def paid_whole(_: None) -> str:
    return happen("pay")


def read_whole(_: None) -> str:
    return happen("read")


def flaky_whole(_: None) -> int:
    outside.happen("flaky")
    if attempt() < 3:
        raise ConnectionError("refused")
    return attempt()


def patient_whole(_: None) -> int:
    """Waits for longer than a call stays in memory."""
    outside.happen("patient")
    if attempt() < 2:
        raise TryAgain("later", after=timedelta(seconds=25 * outside.unit))
    return attempt()


async def hanging_whole(_: None) -> None:
    await forever("hang")


# --- all of them ----------------------------------------------------------------------------------

UNKNOWN = "OutcomeUnknown"
UNDONE = {"undo child": 1}


def once(*names: str) -> dict[str, int]:
    return dict.fromkeys(names, 1)


async def question(effects: Effects, name: str, *, nobody: Literal["wait", "refuse"] = "wait") -> Any:
    form: dict[str, Any] = {"type": "object"}
    asked = Question(name, "form", f"{name}?", form, None, {"message": f"{name}?", "requestedSchema": form})
    return json.loads(await effects.ask(name, digest((name,), {}), QuestionAsk(asked, "wait", nobody)))


async def questioning(effects: Effects, _: None) -> list[Any]:
    """Two questions at once, one after them under a name that was used, and one that nobody can be asked."""
    both = [*await asyncio.gather(question(effects, "first"), question(effects, "second"))]
    both.append(await act(effects, "heard"))
    both.append(await question(effects, "first"))
    try:
        both.append(await question(effects, "nobody", nobody="refuse"))
    except InputUnavailable:
        both.append("nobody")
    return both


async def asking_child(effects: Effects, _: None) -> Any:
    return await question(effects, "child")


asking_job = body(asking_child, kind="job")


async def has_an_asking_child(effects: Effects, _: None) -> list[Any]:
    heard = await effects.child(child_ask(asking_job, None), ANY.decode)
    return [heard, await act(effects, "passed on")]


async def unanswered(effects: Effects, _: None) -> str:
    """The question is withdrawn, also that of a child that is given up with it."""
    try:
        async with asyncio.timeout(4 * outside.unit):
            await asyncio.gather(question(effects, "own"), effects.child(child_ask(asking_job, None), ANY.decode))
    except TimeoutError:
        return await act(effects, "went on")
    return "answered"


async def continuing(effects: Effects, n: int) -> list[Any]:
    """Three journals, a child and its question of each given up, and a signal for each, all sent to the first."""
    await act(effects, f"round {n}")
    with suppress(TimeoutError):
        async with asyncio.timeout(4 * outside.unit):
            await effects.child(child_ask(asking_job, None), ANY.decode)
    heard = await effects.receive(f"word {n}", ANY.decode)
    if n < 2:
        raise Continued(json.dumps(n + 1).encode())
    return [n, heard]


async def say_all(engine: Embedded, view: CallView) -> None:
    for n in range(3):
        with suppress(AlreadyAnswered):  # before a crash
            await engine.deliver(view.id, Signal(f"word {n}", str(n).encode()))


def signals(*names: str) -> dict[str, Any]:
    return {"signals": tuple(SignalSpec(name, name in ("early", "decision"), {}) for name in names)}


SCENARIOS = [
    Scenario(body(sequential), (["n0", "n1", "n2"],), argument=3, times=once("n0", "n1", "n2")),
    Scenario(body(sleeping), (True,), times=once("woken")),
    Scenario(body(large), (1_550_000,), argument="y" * 50_000, times=once("blow")),
    Scenario(body(marked), (["first", True],), times=once("first", "second")),
    Scenario(body(telling), ("told",), times=once("work"), text="half", stored={"half": "1"}),
    Scenario(body(raising), status="failed", errors=("LookupError: no such place",), times=once("begin")),
    Scenario(
        body(branches),
        ([[f"{name}{n}" for n in range(3)] for name in "abc"],),
        times=once(*(f"{name}{n}" for name in "abc" for n in range(3))),
    ),
    Scenario(body(group), (["no", "undo a", "undo b"],), times=once("fail", "undo a", "undo b")),
    Scenario(body(race), (["winner", "afterwards"],), times=once("loser", "winner", "afterwards")),
    Scenario(body(timing_out), (["late", "afterwards", "in time"],), times=once("slow", "afterwards", "in time")),
    Scenario(body(given_up_late), ("afterwards",), times=once("stay", "afterwards")),
    Scenario(body(retried), (3,), times={"flaky": 3}),
    Scenario(body(timed_out), ("TimeoutError",), times={"hang": 2}, on_threads=True),
    Scenario(body(paying), ("pay", "unknown"), once=("pay",), times=once("pay")),
    Scenario(body(paying_again), ("paid", "unknown"), once=("try", "pay"), times=once("try", "pay")),
    Scenario(body(reconciled), ("found",), once=("pay",), times=once("pay")),
    Scenario(
        body(errors),
        (
            [
                "ValueError no",
                "KeyError 'sku'",
                "Strange strange",
                "ExceptionGroup two (2 sub-exceptions)",
                "StepFailed SystemExit",
                "StepFailed CancelledError",
                "StepFailed GeneratorExit",
            ],
        ),
        times=once("value", "key", "strange", "group", "exit", "cancelled", "generator"),
    ),
    Scenario(
        body(on_threads),
        ([f"thread {n}" for n in range(3)],),
        times=once(*(f"thread {n}" for n in range(3))),
        on_threads=True,
    ),
    Scenario(
        body(parenting),
        ([0, 2, 4, 20],),
        (double,),
        times=once("double 0", "double 1", "double 2", "double 10"),
        children=("completed",) * 4,
    ),
    Scenario(body(sharing), ([14, 14, "Conflict"],), (double,), times=once("double 7"), children=("completed",)),
    Scenario(body(detaching), (8,), (double,), times=once("double 4"), children=("completed",)),
    Scenario(body(joining_in_vain), (["late", 8],), (doze,), times=once("late"), children=("completed",)),
    Scenario(body(mourning), (["ValueError", "CallNotFound"],), (fail,), times=once("fail"), children=("failed",)),
    Scenario(body(giving_up), ("late",), (wait,), times=once("late") | UNDONE, children=("cancelled",)),
    Scenario(body(giving_up_at_once), ("late",), (wait,), times=once("late"), children=("cancelled",), gives_up=True),
    Scenario(
        body(ending_at_once),
        (),
        (wait,),
        status="failed",
        errors=("ValueError: absent",),
        children=("cancelled",),
        gives_up=True,
    ),
    Scenario(
        body(cancelled_parent),
        (),
        (wait,),
        status="cancelled",
        errors=("PerdureError: cancelled: enough",),
        actions=(Ask(),),
        children=("cancelled",),
    ),
    Scenario(
        body(crowded),
        ([0, 1, 2],),
        (nap,),
        times={f"nap {n}": 2 for n in range(3)},
        children=("completed",) * 3,
        stored={"0": "1", "1": "1", "2": "1"},
        settings={"bodies_in_memory": 2},
    ),
    Scenario(body(counting), (["a", "c", "n"],), stored={"a": '"x"', "c": '"x"', "n": "3"}),
    Scenario(
        body(storing_with_steps),
        (["work 0", True, "work 1", True],),
        times=once("work 0", "work 1", "work 10", "work 11"),
        stored={"k0": "1", "k1": "1"},
    ),
    Scenario(
        body(hearing),
        (["e", "l", 1, 2, 3],),
        actions=(
            Send("early", "e"),
            Send("many", 1, nth=1),
            Send("late", "l", has_run("listen")),
            Send("many", 2, nth=2),
            Send("many", 3, nth=3),
        ),
        times=once("listen"),
        options=signals("early", "late", "many"),
        settings={"bodies_in_memory": 1},
    ),
    Scenario(
        body(impatient),
        (["yes"],),
        actions=(Send("decision", "yes", has_run("gave up")),),
        times=once("gave up"),
        options=signals("decision", "never"),
    ),
    Scenario(
        body(questioning),
        ([{"action": "decline"}, {"action": "accept"}, "heard", {"action": "cancel"}, "nobody"],),
        actions=(
            Reply("second", {"action": "accept"}),
            Reply("first", {"action": "decline"}),
            Reply("first-2", {"action": "cancel"}),
        ),
        times=once("heard"),
        settings={"bodies_in_memory": 1},
    ),
    Scenario(
        body(has_an_asking_child),
        ([{"action": "accept"}, "passed on"],),
        (asking_job,),
        actions=(Reply("child", {"action": "accept"}),),
        times=once("passed on"),
        children=("completed",),
    ),
    Scenario(
        body(unanswered),
        ("went on",),
        (asking_job,),
        times=once("went on"),
        children=("cancelled",),
        gives_up=True,
    ),
    Scenario(
        body(continuing),
        ([2, 2],),
        (asking_job,),
        argument=0,
        actions=(Do(say_all),),
        times=once("round 0", "round 1", "round 2"),
        children=("cancelled",) * 3,
        gives_up=True,
        options={"signals": tuple(SignalSpec(f"word {n}", True, {}) for n in range(3))},
        settings={"bodies_in_memory": 2},
    ),
    Scenario(
        body(reserving),
        status="cancelled",
        errors=("PerdureError: cancelled: enough",),
        actions=(Ask(has_run("reserve")),),
        times=once("reserve", "undo one", "undo two"),
    ),
    Scenario(
        body(stubborn),
        status="cancelled",
        errors=("PerdureError: cancelled: now",),
        actions=(Ask(), Ask(has_run("begin to undo"), nth=2, reason="now")),
        times=once("begin to undo"),
    ),
    Scenario(body(staying), ("stay",), actions=(Ask(),), times=once("stay")),
    Scenario(
        body(overdue),
        status="cancelled",
        errors=("PerdureError: cancelled: deadline",),
        times=once("slow", "undo"),
        options={"deadline": timedelta(seconds=0.1)},
    ),
    Scenario(
        body(stumbling),
        ("first",),
        actions=(Do(mend, is_stuck),),
        times=once("first"),
        options={"waiting": "a request"},
    ),
    Scenario(
        body(released),
        (["first", "second"],),
        actions=(
            Do(let_go),
            Do(release, is_waiting),
            Do(set_from_outside, has_run("first")),
            Do(drain, has_run("first")),
            Send("go", None, has_run("first")),
        ),
        times=once("first", "second"),
        stored={"outside": "1"},
        options={"waiting": "a request", **signals("go")},
    ),
    Scenario(whole(paid_whole), ("pay",), errors=(UNKNOWN,), once=("pay",), times=once("pay")),
    Scenario(whole(read_whole, rerun=True), ("read",), times=once("read")),
    Scenario(whole(flaky_whole, rerun=True, retry=SOON), (3,), times={"flaky": 3}),
    Scenario(whole(patient_whole, retry=SOON), (2,), errors=(UNKNOWN,), once=("patient",), times={"patient": 2}),
    Scenario(
        whole(hanging_whole, rerun=True),
        status="cancelled",
        errors=("PerdureError: cancelled: enough",),
        actions=(Ask(at_once),),
    ),
]

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
