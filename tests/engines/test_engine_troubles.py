"""What befalls calls when something fails under them: the storage for a moment, a journal, code where it begins."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import pytest

from perdure.core.retry import Retry
from perdure.effects import Effects
from perdure.engine import BodyFunction, CallFacts, Cancel, Function, Query, Signal
from perdure.engines.embedded.engine import Embedded
from perdure.engines.embedded.journal import (
    Append,
    Claim,
    Journal,
    MarkStuck,
    Read,
    ReadInbox,
    RemoveExpired,
    Then,
    Write,
)
from perdure.errors import OutcomeUnknown, StorageError
from tests.engines.functions import ANY, NoHost, body, child_ask, request_for, step, whole
from tests.engines.test_engine_calls import end_of, run, seen

T = TypeVar("T")


class Troubled(Embedded):
    """An engine whose storage refuses the next read or write of some kinds, once each."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.refuses: set[type[Read[Any] | Write[Any]]] = set()
        self.refused: list[type] = []

    def _journal(self) -> Journal:
        return _TroubledJournal(super()._journal(), self)


class _TroubledJournal:
    def __init__(self, journal: Journal, engine: Troubled) -> None:
        self._journal = journal
        self._engine = engine

    async def open(self) -> None:
        await self._journal.open()

    async def close(self) -> None:
        await self._journal.close()

    def write_soon(self, write: Write[None]) -> None:
        self._journal.write_soon(write)

    @property
    def changed_elsewhere(self) -> bool:
        return self._journal.changed_elsewhere

    def write(self, write: Write[Any], then: Then) -> None:
        if self._is_refused(write):
            asyncio.get_running_loop().call_soon(then, None, StorageError("not now"))
        else:
            self._journal.write(write, then)

    async def read(self, read: Read[T]) -> T:
        if self._is_refused(read):
            raise StorageError("not now")
        return await self._journal.read(read)

    def _is_refused(self, what: Read[Any] | Write[Any]) -> bool:
        if type(what) not in self._engine.refuses:
            return False
        self._engine.refuses.remove(type(what))
        self._engine.refused.append(type(what))
        return True


@pytest.fixture
def engine(tmp_path: Path) -> Troubled:
    return Troubled(tmp_path / "calls.sqlite")


async def naps(effects: Effects, seconds: float) -> str:
    await asyncio.sleep(seconds)
    return "awake"


async def test_a_timer_fires_although_the_inbox_could_not_be_read_when_it_was_due(engine: Troubled) -> None:
    function = body(naps)
    async with engine.serve([function]):
        engine.refuses.add(ReadInbox)
        assert (await run(engine, function, 0.01)).result == "awake"
        assert engine.refused == [ReadInbox]


async def test_a_deadline_passes_although_the_inbox_could_not_be_read(engine: Troubled) -> None:
    function = body(naps)
    async with engine.serve([function]):
        engine.refuses.add(ReadInbox)
        view = await run(engine, function, 1000, deadline=timedelta(milliseconds=10))
        assert view.status == "cancelled"
        assert engine.refused == [ReadInbox]


async def test_a_signal_is_taken_although_the_inbox_could_not_be_read_at_first(engine: Troubled) -> None:
    async def listens(effects: Effects, _: None) -> Any:
        return await effects.receive("word", ANY.decode)

    function = body(listens)
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function))
        engine.refuses.add(ReadInbox)
        await engine.deliver(accepted.call_id, Signal("word", b'"heard"'))
        assert (await end_of(engine, accepted.call_id)).result == "heard"


async def test_a_call_whose_unit_was_refused_is_taken_up_again(engine: Troubled) -> None:
    async def adds(effects: Effects, n: int) -> int:
        return await step(effects, lambda: n + 1, name="add")

    function = body(adds)
    async with engine.serve([function]):
        engine.refuses.add(Append)
        assert (await run(engine, function, 1)).result == 2
        assert engine.refused == [Append]


async def test_a_whole_step_whose_outcome_was_refused_is_not_run_again(engine: Troubled) -> None:
    paid: list[int] = []
    function = whole(paid.append)
    async with engine.serve([function]):
        engine.refuses.add(Append)
        view = await run(engine, function, 1)
        assert (view.error or "").startswith("OutcomeUnknown")
        assert (engine.refused, paid) == ([Append], [1])


async def test_a_whole_step_that_may_run_again_does_so_when_its_outcome_was_refused(engine: Troubled) -> None:
    paid: list[int] = []
    function = whole(paid.append, rerun=True)
    async with engine.serve([function]):
        engine.refuses.add(Append)
        assert (await run(engine, function, 1)).status == "completed"
        assert (engine.refused, paid) == ([Append], [1, 1])


async def test_a_call_is_stuck_although_it_could_not_be_said_at_first(engine: Troubled) -> None:
    def main(effects: Effects, facts: CallFacts, arguments: bytes) -> Coroutine[Any, Any, bytes]:
        raise ValueError("these arguments are not mine")

    function = Function("tests:main", "main", "tool", BodyFunction(main), NoHost())
    async with engine.serve([function]):
        engine.refuses.add(MarkStuck)
        assert (await run(engine, function)).status == "stuck"
        assert engine.refused == [MarkStuck]


async def test_claims_go_on_after_one_was_refused(engine: Troubled) -> None:
    function = body(naps, kind="job")
    async with engine.serve([function]):
        engine.refuses.add(Claim)
        assert (await run(engine, function, 0, after=timedelta(milliseconds=10))).result == "awake"
        assert engine.refused == [Claim]


async def test_an_engine_opens_although_expired_calls_cannot_be_removed(engine: Troubled) -> None:
    function = body(naps)
    engine.refuses.add(RemoveExpired)
    async with engine.serve([function]):
        assert (await run(engine, function, 0)).result == "awake"
        assert engine.refused == [RemoveExpired]


async def test_a_call_whose_journal_cannot_be_read_is_stuck_and_the_others_go_on(tmp_path: Path) -> None:
    import sqlite3

    async def listens(effects: Effects, _: int) -> Any:
        await step(effects, lambda: 1, name="one")
        return await effects.receive("word", ANY.decode)

    function, file = body(listens), tmp_path / "calls.sqlite"
    engine = Embedded(file)
    async with engine.serve([function]):
        ids = [(await engine.start(request_for(function, n))).call_id for n in range(3)]
        for call_id in ids:
            await seen(engine, call_id, lambda view: view.status == "waiting")
    with sqlite3.connect(file) as connection:
        newer = b'9["step-of-tomorrow"]\n'
        connection.execute(
            "UPDATE events SET body = ? WHERE call = (SELECT n FROM calls WHERE id = ?)", (newer, ids[1])
        )
    connection.close()
    async with engine.serve([function]):
        assert "newer perdure" in ((await seen(engine, ids[1], lambda view: view.status == "stuck")).error or "")
        for call_id in (ids[0], ids[2]):
            await engine.deliver(call_id, Signal("word", b'"on"'))
            assert (await end_of(engine, call_id)).result == "on"


async def test_a_call_that_cannot_even_begin_is_stuck_and_says_why() -> None:
    def main(effects: Effects, facts: CallFacts, arguments: bytes) -> Coroutine[Any, Any, bytes]:
        raise ValueError("these arguments are not mine")

    function = Function("tests:main", "main", "tool", BodyFunction(main), NoHost())
    engine = Embedded("memory:")
    async with engine.serve([function]):
        view = await run(engine, function)
        assert view.status == "stuck"
        assert "these arguments are not mine" in (view.error or "")


@pytest.mark.parametrize("error", [asyncio.CancelledError(), SystemExit(3), StopAsyncIteration()])
async def test_a_question_for_an_outcome_that_ends_strangely_leaves_it_unknown(error: BaseException) -> None:
    async def asks() -> None:
        raise error

    def pays() -> None:
        raise ConnectionError("cut off")

    async def buys(effects: Effects, _: None) -> None:
        await step(effects, pays, reconcile=asks, retry=Retry(attempts=2, first=timedelta(0)))

    function = body(buys)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        view = await run(engine, function)
        assert (view.error or "").startswith("OutcomeUnknown")


async def test_a_function_that_is_registered_anew_runs_its_new_code() -> None:
    async def answers(effects: Effects, _: Any) -> str:
        return "old"

    async def answers_anew(effects: Effects, _: Any) -> str:
        return "new"

    functions = [body(answers)]
    engine = Embedded("memory:")
    async with engine.serve(functions):
        assert (await run(engine, functions[0], 1)).result == "old"
        functions[:] = [body(answers_anew, name="answers")]
        assert (await run(engine, functions[0], 2)).result == "new"


async def test_who_held_a_shared_call_holds_the_one_that_an_operator_tries_again() -> None:
    async def fails(effects: Effects, _: None) -> None:
        raise ValueError

    function = body(fails)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        failed = await run(engine, function, key="k", shared=True, caller="principal:a")
        again = await engine.retry(failed.id)
        assert again.call_id != failed.id
        assert (await engine.get(again.call_id)).callers == {"principal:a"}


async def test_a_child_is_cancelled_with_its_parent_although_somebody_once_waited_for_it_too() -> None:
    async def waits(effects: Effects, _: Any) -> None:
        await effects.receive("never", ANY.decode)

    child = body(waits, kind="job")

    async def parent(effects: Effects, _: None) -> None:
        await effects.child(child_ask(child, 1), ANY.decode)

    async def visitor(effects: Effects, call_id: str) -> str:
        with suppress(TimeoutError):
            async with asyncio.timeout(0.01):
                await effects.join(call_id, ANY.decode)
        return "left"

    parents, visitors = body(parent), body(visitor)
    engine = Embedded("memory:")
    async with engine.serve([child, parents, visitors]):
        accepted = await engine.start(request_for(parents))
        await seen(engine, accepted.call_id, lambda view: view.status == "waiting")
        [row] = (await engine.find(Query(tool="waits"))).calls
        assert (await run(engine, visitors, row.id)).result == "left"
        await engine.deliver(accepted.call_id, Cancel())
        assert (await end_of(engine, row.id)).status == "cancelled"


# --- calls that are to begin later ----------------------------------------------------------------

LATER = timedelta(hours=1)


async def test_what_comes_for_a_delayed_call_does_not_begin_it() -> None:
    async def listens(effects: Effects, _: None) -> Any:
        return await effects.receive("word", ANY.decode)

    function = body(listens)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function, after=LATER))
        await engine.deliver(accepted.call_id, Signal("word", b'"early"'))
        await engine.release(accepted.call_id)
        assert (await engine.get(accepted.call_id)).status == "waiting"


async def test_a_delayed_call_that_is_cancelled_never_runs() -> None:
    effects_seen: list[str] = []

    async def sends(effects: Effects, _: None) -> None:
        try:
            await step(effects, lambda: effects_seen.append("sent"), name="send")
        except asyncio.CancelledError:
            await step(effects, lambda: effects_seen.append("undone"), name="undo")
            raise

    function = body(sends)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function, after=LATER))
        await engine.deliver(accepted.call_id, Cancel("no longer"))
        assert (await end_of(engine, accepted.call_id)).status == "cancelled"
        assert effects_seen == []


async def test_a_delayed_call_that_has_begun_is_cancelled_by_its_body_also_after_it_was_given_back() -> None:
    effects_seen: list[str] = []

    async def sends(effects: Effects, _: None) -> None:
        await step(effects, lambda: effects_seen.append("sent"), name="send")
        try:
            await effects.receive("never", ANY.decode)
        except asyncio.CancelledError:
            await step(effects, lambda: effects_seen.append("undone"), name="undo")
            raise

    function = body(sends)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        accepted = await engine.start(request_for(function, after=timedelta(milliseconds=10)))
        await seen(engine, accepted.call_id, lambda view: effects_seen == ["sent"] and view.status == "waiting")
    async with engine.serve([], work=False):
        await engine.deliver(accepted.call_id, Cancel("no longer"))
        assert not (await engine.get(accepted.call_id)).is_over
    async with engine.serve([function]):
        assert (await end_of(engine, accepted.call_id)).status == "cancelled"
        assert effects_seen == ["sent", "undone"]


async def test_the_time_of_a_delayed_body_begins_at_its_start() -> None:
    async def tells_time(effects: Effects, _: None) -> float:
        return effects.now()

    function = body(tells_time)
    engine = Embedded("memory:")
    async with engine.serve([function]):
        view = await run(engine, function, after=timedelta(milliseconds=50))
        assert view.result - view.created.timestamp() == pytest.approx(0.05, abs=0.001)


async def test_a_key_of_unknown_outcome_outlives_the_time_that_calls_are_kept() -> None:
    def pays(_: None) -> None:
        raise OutcomeUnknown("pay", "x")

    function = whole(pays)
    engine = Embedded("memory:")
    kept = {"key": "k", "retain": timedelta(0), "reuse": timedelta(0)}
    async with engine.serve([function]):
        first = await run(engine, function, **kept)
    async with engine.serve([function]):  # which removes what has expired
        assert (await engine.start(request_for(function, **kept))).call_id == first.id
