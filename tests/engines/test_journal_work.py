"""Claims, parking, processes that come and go, and what is removed in the end, on each journal."""

from __future__ import annotations

from datetime import timedelta

import pytest

from perdure.core.codec import encode_error
from perdure.engine import Cancel, Signal, SignalSpec
from perdure.engines.embedded.journal import (
    AppendJoin,
    Arrived,
    Attempt,
    Claimed,
    ForgetCrashes,
    Held,
    Leave,
    MarkStuck,
    NextDue,
    NextExpiry,
    NoteAttempt,
    Offer,
    Process,
    Processes,
    RemoveExpired,
    TakeOver,
    Yield,
    commit,
)
from perdure.errors import CallNotFound
from tests.engines.storage import FUNCTION, MORNING, Storage, asked, step

BROKEN = encode_error(ValueError("broken"))


async def next_due(storage: Storage, *functions: str) -> float | None:
    return await storage.journal.read(NextDue(frozenset(functions or (FUNCTION,))))


# --- claims and parking ---------------------------------------------------------------------------


async def test_a_claim_takes_what_is_due_longest_first_and_once(storage: Storage) -> None:
    late, early, middle = [await storage.held() for _ in range(3)]
    for held, wake_at in ((late, 30.0), (early, 10.0), (middle, 20.0)):
        await storage.park(held, wake_at=MORNING + wake_at)
    assert await next_due(storage) == MORNING + 10
    assert await storage.claim() == ()
    storage.clock.now += 100
    first = await storage.claim(limit=2)
    assert [claimed.held.n for claimed in first] == [early.n, middle.n]
    assert [claimed.held.n for claimed in await storage.claim()] == [late.n]
    assert await storage.claim() == ()
    assert await next_due(storage) is None


async def test_a_claim_loads_what_there_is_of_the_call(storage: Storage) -> None:
    held = await storage.held()
    await storage.append(held, step(b"1", "0/1"), step(b"2", "0/2"))
    attempt = Attempt("0/3", "nws", 1, True, MORNING, MORNING, "503", "503", MORNING + 1)
    await commit(storage.journal, NoteAttempt(held.n, held.epoch, attempt, "waiting"))
    await storage.deliver(held.view.id, Cancel("enough"))
    await storage.park(held, wake_at=MORNING)
    claimed = await storage.claim_one()
    assert claimed.events == (step(b"1", "0/1"), step(b"2", "0/2"))
    assert claimed.attempts == (attempt,)
    assert len(claimed.inbox) == 1
    assert claimed.held.epoch == held.epoch + 1


async def test_a_parked_call_without_a_time_is_woken_by_its_inbox_alone(storage: Storage) -> None:
    held = await storage.held()
    await storage.park(held)
    storage.clock.now += 1e6
    assert (await storage.claim(), await next_due(storage)) == ((), None)
    delivered = await storage.deliver(held.view.id, Signal("decision", b"1"))
    assert delivered.owner is None
    assert len(await storage.claim()) == 1


async def test_what_arrived_before_a_call_was_parked_keeps_it_due(storage: Storage) -> None:
    held = await storage.held()
    await storage.deliver(held.view.id, Signal("decision", b"1"))
    await storage.park(held, wake_at=MORNING + 1000)
    assert len(await storage.claim()) == 1


async def test_what_is_consumed_as_a_call_is_parked_does_not_keep_it_due(storage: Storage) -> None:
    held = await storage.held()
    await storage.deliver(held.view.id, Signal("decision", b"1"))
    (row,) = (await storage.record(held.view.id)).inbox
    await storage.park(held, consumed=(row.row,))
    assert await storage.claim() == ()


async def test_a_call_that_was_woken_is_due_even_when_the_clock_is_set_back(storage: Storage) -> None:
    held = await storage.held()
    await storage.park(held, wake_at=MORNING + 1000)
    await storage.deliver(held.view.id, Signal("decision", b"1"))
    storage.clock.now -= 3600
    assert len(await storage.claim()) == 1


async def test_a_call_given_back_is_due_at_once_and_counts_no_crash(storage: Storage) -> None:
    held = await storage.held()
    await commit(storage.journal, Yield(held.n, held.epoch))
    assert (await storage.claim_one()).held.crashes == 0


async def test_a_call_has_been_begun_by_every_life_that_did_not_give_it_back(storage: Storage) -> None:
    await storage.start(own=False)
    begun: list[bool] = []
    for _ in range(2):
        held = (await storage.claim_one()).held
        begun.append(held.begun)
        await commit(storage.journal, Yield(held.n, held.epoch))
    begun.append((await live_and_die(storage)).held.begun)
    begun.append((await storage.claim_one()).held.begun)
    assert begun == [False, False, True, True]


async def test_a_call_that_is_given_back_after_something_of_it_ran_has_been_begun(storage: Storage) -> None:
    await storage.start(own=False)
    held = (await storage.claim_one()).held
    await commit(storage.journal, Yield(held.n, held.epoch, begun=True))
    assert (await storage.claim_one()).held.begun


async def test_a_claim_of_other_functions_takes_nothing_and_is_due_never(storage: Storage) -> None:
    await storage.start(own=False)
    assert await storage.claim("other:f") == ()
    assert await next_due(storage, "other:f") is None
    assert await next_due(storage, "other:f", FUNCTION) == MORNING


async def test_an_ended_call_is_never_due(storage: Storage) -> None:
    await storage.complete(await storage.held())
    storage.clock.now += 1000
    assert (await storage.claim(), await next_due(storage)) == ((), None)


async def test_it_is_told_in_which_inboxes_of_a_process_something_lies(storage: Storage) -> None:
    other = await storage.arrive()
    mine, quiet = await storage.held(), await storage.held()
    theirs = (await storage.start(process=other)).held
    assert theirs is not None
    for held in (mine, theirs):
        for _ in range(2):
            await storage.deliver(held.view.id, Signal("note", b"1"))
    assert await storage.journal.read(Arrived(storage.process)) == (mine.n,)
    assert await storage.journal.read(Arrived(other)) == (theirs.n,)
    assert quiet.n not in await storage.journal.read(Arrived(storage.process))


# --- processes ------------------------------------------------------------------------------------


async def test_processes_are_known_until_they_leave_and_have_numbers_of_their_own(storage: Storage) -> None:
    second = await storage.arrive("second", pid=22)
    assert await storage.journal.read(Processes()) == (
        Process(storage.process, "process", 1, 0),
        Process(second, "second", 22, 0),
    )
    await commit(storage.journal, Leave(second))
    assert [process.id for process in await storage.journal.read(Processes())] == [storage.process]
    assert await storage.arrive("third") > second


async def test_the_calls_of_a_dead_process_are_due_with_one_more_crash(storage: Storage) -> None:
    other = await storage.arrive()
    theirs = [(await storage.start(process=other)).held for _ in range(2)]
    mine = await storage.held()
    assert await commit(storage.journal, TakeOver(other)) == 2
    assert await commit(storage.journal, TakeOver(other)) == 0
    claimed = await storage.claim()
    assert {c.held.n for c in claimed} == {held.n for held in theirs if held is not None}
    assert [c.held.crashes for c in claimed] == [1, 1]
    await storage.append(mine, step())


async def live_and_die(storage: Storage) -> Claimed:
    """Claim the call in a process that dies; as the next one, alive, has it."""
    victim = await storage.arrive()
    await storage.claim_one(process=victim)
    await commit(storage.journal, TakeOver(victim))
    claimed = await storage.claim_one()
    await commit(storage.journal, Yield(claimed.held.n, claimed.held.epoch))
    return claimed


async def test_crashes_add_up_while_nothing_is_recorded(storage: Storage) -> None:
    await storage.start(own=False)
    assert [(await live_and_die(storage)).held.crashes for _ in range(4)] == [1, 2, 3, 4]


@pytest.mark.parametrize("what", ["a unit", "an attempt", "that no step ran"])
async def test_crashes_are_forgotten_once_something_is_recorded(storage: Storage, what: str) -> None:
    await storage.start(own=False)
    for _ in range(3):
        await live_and_die(storage)
    held = (await storage.claim_one()).held
    assert held.crashes == 3
    if what == "a unit":
        await storage.append(held, step())
    elif what == "an attempt":
        attempt = Attempt("0/1", "nws", 1, False, MORNING, MORNING, None, None, None)
        await commit(storage.journal, NoteAttempt(held.n, held.epoch, attempt, "running"))
    else:
        await commit(storage.journal, ForgetCrashes(held.n, held.epoch))
    await commit(storage.journal, Yield(held.n, held.epoch))
    assert (await live_and_die(storage)).held.crashes == 1


async def test_a_process_that_leaves_counts_no_crash_and_lets_its_requests_go(storage: Storage) -> None:
    other = await storage.arrive()
    accepted = (await storage.start(asked(waiting="first"), process=other)).accepted
    await commit(storage.journal, Leave(other))
    assert (await storage.accepted(asked(waiting="second"))).how == "adopted"
    assert (await storage.claim_one()).held.crashes == 0
    assert accepted.call_id


async def test_an_answer_that_was_handed_before_its_process_died_to_another_request_is_not_the_last(
    storage: Storage,
) -> None:
    other = await storage.arrive()
    first = (await storage.start(asked(key="Berlin", waiting="first"))).accepted
    await storage.start(asked(key="Berlin", waiting="second"), process=other)
    await storage.let_go("first", handed=True)
    await commit(storage.journal, TakeOver(other))
    adopted = await storage.accepted(asked(waiting="third"))
    assert (adopted.call_id, adopted.how) == (first.call_id, "adopted")


# --- diverged calls -------------------------------------------------------------------------------


async def offer(storage: Storage, process: int, *functions: str) -> None:
    await commit(storage.journal, Offer(process, frozenset(functions or (FUNCTION,)), storage.clock.now))


async def diverge(storage: Storage, held: Held, *, diverged: bool = True) -> None:
    await commit(storage.journal, MarkStuck(held.n, held.epoch, MORNING, BROKEN, diverged))


async def test_each_newly_started_process_tries_a_diverged_call_once(storage: Storage) -> None:
    await offer(storage, storage.process)
    held = await storage.held()
    await diverge(storage, held)
    for name in ("second", "third"):
        process = await storage.arrive(name)
        await offer(storage, process)
        assert await storage.claim() == (), "only the new one tries"
        again = (await storage.claim_one(process=process)).held
        assert (again.n, again.view.status, again.view.failure) == (held.n, "running", None)
        await diverge(storage, again)
        await offer(storage, process)
        assert await storage.claim(process=process) == (), "once"
    assert (await storage.view(held.view.id)).status == "stuck"


async def test_a_diverged_call_that_goes_on_elsewhere_is_not_tried_again(storage: Storage) -> None:
    held = await storage.held()
    await diverge(storage, held)
    processes = [await storage.arrive(name) for name in ("second", "third")]
    for process in processes:
        await offer(storage, process)
    going_on = (await storage.claim_one(process=processes[0])).held
    await storage.park(going_on)
    assert await storage.claim(process=processes[1]) == ()


async def test_a_process_tries_what_diverged_when_it_offers_the_function_later(storage: Storage) -> None:
    held = await storage.held()
    await diverge(storage, held)
    process = await storage.arrive()
    await offer(storage, process, "other:f")
    assert await storage.claim(process=process) == ()
    await offer(storage, process, "other:f", FUNCTION)
    assert len(await storage.claim(process=process)) == 1


async def test_a_call_that_crashed_too_often_is_left_to_an_operator(storage: Storage) -> None:
    await diverge(storage, await storage.held(), diverged=False)
    process = await storage.arrive()
    await offer(storage, process)
    assert await storage.claim(process=process) == ()


# --- retention ------------------------------------------------------------------------------------


async def test_an_ended_call_is_kept_for_its_retain_and_at_least_for_its_reuse(storage: Storage) -> None:
    short = await storage.held(asked(retain=timedelta(minutes=1)))
    reused = await storage.held(asked(key="Berlin", retain=timedelta(minutes=1), reuse=timedelta(hours=1)))
    running = await storage.held(asked(retain=timedelta(0)))
    for held in (short, reused):
        await storage.complete(held)
    assert await storage.journal.read(NextExpiry()) == MORNING + 60
    assert await commit(storage.journal, RemoveExpired(MORNING + 59, 10)) == 0
    assert await commit(storage.journal, RemoveExpired(MORNING + 60, 10)) == 1
    with pytest.raises(CallNotFound):
        await storage.view(short.view.id)
    assert await storage.journal.read(NextExpiry()) == MORNING + 3600
    assert await commit(storage.journal, RemoveExpired(MORNING + 1e9, 10)) == 1
    assert (await storage.view(running.view.id)).status == "running"
    assert await storage.journal.read(NextExpiry()) is None


async def test_all_that_belongs_to_a_call_is_removed_with_it(storage: Storage) -> None:
    parent = await storage.held(asked(signals=(SignalSpec("decision", True, {}),), arguments=b"x" * 5000))
    other = await storage.held(asked(function="other:f", idempotency_key="once", key="Berlin", shared=True))
    await storage.append(parent, step())
    attempt = Attempt("0/1", "nws", 1, True, MORNING, MORNING, None, None, None)
    await commit(storage.journal, NoteAttempt(parent.n, parent.epoch, attempt, "running"))
    await storage.deliver(parent.view.id, Signal("decision", b"1"))
    join = AppendJoin(parent.n, parent.epoch, MORNING, "0/2", "join", "d", other.view.id)
    await commit(storage.journal, join)
    await storage.accepted(asked(idempotency_key="mine", waiting="first"))
    await storage.complete(parent)
    assert await commit(storage.journal, RemoveExpired(MORNING + 1e9, 10)) == 1
    # A later call may have the same number: nothing of the old one may be found under it.
    fresh = [await storage.held() for _ in range(3)]
    await storage.complete(other)
    for held in fresh:
        record = await storage.record(held.view.id)
        assert (len(record.events), record.attempts, record.inbox) == (1, (), ())
    assert await commit(storage.journal, RemoveExpired(MORNING + 1e9, 10)) == 1
    again = await storage.accepted(asked(function="other:f", idempotency_key="once", key="Berlin", shared=True))
    assert again.how == "new"


async def test_a_stale_owner_stays_fenced_when_the_number_of_its_call_is_used_again(storage: Storage) -> None:
    stale = await storage.held()
    await storage.complete(stale)
    await commit(storage.journal, RemoveExpired(MORNING + 1e9, 10))
    fresh = await storage.held()
    assert fresh.n == stale.n
    assert fresh.epoch != stale.epoch


async def test_long_journals_are_removed_a_few_at_a_time(storage: Storage) -> None:
    for _ in range(3):
        held = await storage.held()
        for batch in range(4):
            await storage.append(held, *[step(b"1", f"0/{batch * 3000 + i}") for i in range(3000)])
        await storage.complete(held)
    removed = [await commit(storage.journal, RemoveExpired(MORNING + 1e9, 10)) for _ in range(3)]
    assert removed == [2, 1, 0]
