"""What the owner of a call writes, and what comes to the call from outside, on each journal."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from perdure.core.codec import decode_error, describe_error, encode_error
from perdure.core.events import (
    Answered,
    Asked,
    CancelAsked,
    Cancelled,
    ChildEnded,
    ChildRefused,
    ChildStarted,
    Completed,
    Failed,
    Marked,
    Signalled,
    Started,
    StepLate,
    StoreReturned,
    TimerFired,
)
from perdure.engine import (
    Answer,
    Cancel,
    DeleteEntry,
    GetEntry,
    ListEntries,
    Place,
    Progress,
    Question,
    QuestionAsk,
    SetEntry,
    Signal,
    SignalSpec,
    StoreOperation,
    StoreReply,
    SwapEntry,
)
from perdure.engines.embedded.journal import (
    AppendChild,
    AppendJoin,
    AppendQuestion,
    AppendStore,
    Attempt,
    Deliver,
    Delivered,
    Fenced,
    ForgetCrashes,
    Held,
    MarkStuck,
    NoteAttempt,
    Overtaken,
    ReadInbox,
    ReleaseCall,
    RetryCall,
    TakeOver,
    UseStoreOnce,
    Write,
    Yield,
    commit,
)
from perdure.errors import (
    AlreadyAnswered,
    CallEnded,
    CallFailed,
    CallNotFound,
    Conflict,
    Diverged,
    PayloadTooLarge,
    Refused,
)
from tests.engines.storage import MORNING, Storage, asked, step

LIMIT = 16 * 1024 * 1024
BROKEN = encode_error(ValueError("broken"))


def place(held: Held, key: str = "0/1") -> dict[str, Any]:
    return {"n": held.n, "epoch": held.epoch, "at": MORNING, "key": key, "name": "name", "digest": "digest"}


def attempt(count: int = 1, **differences: Any) -> Attempt:
    return replace(Attempt("0/1", "nws", count, False, MORNING, MORNING, None, None, None), **differences)


# --- events and ends ------------------------------------------------------------------------------


async def test_a_record_has_every_event_in_order_between_the_start_and_the_end(storage: Storage) -> None:
    held = await storage.held()
    await storage.append(held, step(b"1", "0/1"), Marked("0/2", "new way", MORNING))
    await storage.append(held, step(b"2", "0/3"))
    await storage.complete(held, b'"sunny"')
    record = await storage.record(held.view.id)
    assert record.events == (
        Started(MORNING, held.seed, held.python),
        step(b"1", "0/1"),
        Marked("0/2", "new way", MORNING),
        step(b"2", "0/3"),
        Completed(b'"sunny"', MORNING),
    )
    assert (record.view.status, record.view.outcome) == ("completed", b'"sunny"')


async def test_the_end_comes_with_the_last_events_and_only_what_is_late_comes_after_it(storage: Storage) -> None:
    held = await storage.held()
    await storage.append(held, step(), status="completed", end=Completed(b"1", MORNING))
    await storage.append(held, StepLate("0/9", "slow", None, 1, MORNING, MORNING), status="running")
    record = await storage.record(held.view.id)
    assert record.view.status == "completed"
    assert [type(event).__name__ for event in record.events] == ["Started", "StepReturned", "StepLate", "Completed"]


async def test_a_failure_and_a_cancellation_show_why(storage: Storage) -> None:
    failed, cancelled = await storage.held(), await storage.held()
    await storage.fail(failed, BROKEN)
    await storage.cancel(cancelled, "no longer needed")
    assert (await storage.view(failed.view.id)).failure == BROKEN
    assert (await storage.record(failed.view.id)).events[-1] == Failed(BROKEN, MORNING)
    view = await storage.view(cancelled.view.id)
    assert view.failure is not None
    assert "no longer needed" in describe_error(view.failure)
    assert (await storage.record(cancelled.view.id)).events[-1] == Cancelled("no longer needed", MORNING)


async def test_what_a_body_said_is_seen_until_it_says_something_else(storage: Storage) -> None:
    held = await storage.held()
    await storage.append(held, status_text="looking", status_data=b'{"n":1}', progress=Progress(1, 3, "one"))
    await storage.append(held, step())
    view = await storage.view(held.view.id)
    assert (view.text, view.status_data, view.progress) == ("looking", b'{"n":1}', Progress(1, 3, "one"))
    await storage.append(held, status_text="found")
    view = await storage.view(held.view.id)
    assert (view.text, view.status_data, view.progress) == ("found", None, Progress(1, 3, "one"))


async def test_each_unit_raises_the_version_and_so_does_each_life(storage: Storage) -> None:
    held = await storage.held()
    versions = [(await storage.view(held.view.id)).version]
    for act in (
        lambda: storage.append(held, step()),
        lambda: commit(storage.journal, NoteAttempt(held.n, held.epoch, attempt(), "running")),
        lambda: storage.park(held, wake_at=MORNING),
        lambda: storage.claim(),
    ):
        await act()
        versions.append((await storage.view(held.view.id)).version)
    assert versions == sorted(set(versions))


# --- fencing --------------------------------------------------------------------------------------


async def test_a_stale_owner_can_write_nothing(storage: Storage) -> None:
    stale = await storage.held()
    await storage.append(stale, step())
    before = await storage.record(stale.view.id)
    await commit(storage.journal, ReleaseCall(stale.view.id))
    claimed = await storage.claim_one()
    owned = await storage.record(stale.view.id)
    assert owned.events == before.events == (Started(MORNING, stale.seed, stale.python), *claimed.events)
    writes: list[Write[Any]] = [
        storage.unit(stale, step(b"2", "0/2")),
        storage.unit(stale, status="completed", end=Completed(b"1", MORNING)),
        storage.unit(stale, status="waiting", park=True),
        NoteAttempt(stale.n, stale.epoch, attempt(), "running"),
        AppendStore(**place(stale), store="items", operation=SetEntry("", "a", b"1")),
        AppendChild(**place(stale), request=asked(), detached=False),
        AppendJoin(**place(stale), call_id="call-1"),
        MarkStuck(stale.n, stale.epoch, MORNING, BROKEN, True),
        Yield(stale.n, stale.epoch),
        ForgetCrashes(stale.n, stale.epoch),
    ]
    errors = await storage.together(*writes)
    assert [type(error) for error in errors] == [Fenced] * len(writes)
    assert await storage.record(stale.view.id) == owned
    await storage.append(claimed.held, step(b"2", "0/2"))
    assert (await storage.record(stale.view.id)).events[-1] == step(b"2", "0/2")


async def test_a_fenced_unit_leaves_its_neighbours_alone(storage: Storage) -> None:
    stale, other = await storage.held(), await storage.held()
    await commit(storage.journal, ReleaseCall(stale.view.id))
    await storage.claim_one()
    results = await storage.together(
        storage.unit(other, step(b"1", "0/1")), storage.unit(stale, step()), storage.unit(other, step(b"2", "0/2"))
    )
    assert [type(result) for result in results] == [tuple, Fenced, tuple]
    assert (await storage.record(other.view.id)).events[1:] == (step(b"1", "0/1"), step(b"2", "0/2"))


async def ask(storage: Storage, held: Held, key: str = "0/1") -> None:
    form = Question("approve", "form", "approve?", {}, None, {})
    await commit(storage.journal, AppendQuestion(**place(held, key), ask=QuestionAsk(form, "wait", "wait")))


async def test_a_time_out_gives_way_to_an_answer_and_what_follows_from_it_is_not_written(storage: Storage) -> None:
    held = await storage.held()
    await ask(storage, held)
    timed_out = storage.unit(held, TimerFired("0/t1", MORNING), withdrawn=("0/1",), gives_way=True)
    *_, overtaken, behind, end = await storage.together(
        Deliver(held.view.id, Answer("approve", b"{}"), MORNING),
        timed_out,
        storage.unit(held, step()),
        storage.unit(held, status="completed", end=Completed(b"1", MORNING)),
    )
    assert (overtaken, type(behind), type(end)) == (Overtaken(), Fenced, Fenced)
    claimed = await storage.claim_one()
    assert [type(event) for event in claimed.events] == [Asked]
    assert [row.event for row in claimed.inbox] == [Answered("0/1", "approve", b"{}", MORNING)]
    assert claimed.held.crashes == 0
    assert isinstance((await storage.together(timed_out))[0], Fenced)


@pytest.mark.parametrize("gives_way", [True, False])
async def test_a_time_out_counts_where_no_answer_is_in_its_way(storage: Storage, gives_way: bool) -> None:
    held = await storage.held()
    await ask(storage, held)
    await ask(storage, held, "0/2")
    name = "approve-2" if gives_way else "approve"  # another's, or one that does not keep what else happened out
    await storage.deliver(held.view.id, Answer(name, b"{}"))
    fired = TimerFired("0/t1", MORNING)
    await storage.append(held, fired, withdrawn=("0/1",), gives_way=gives_way)
    assert (await storage.record(held.view.id)).events[-1] == fired


# --- payloads -------------------------------------------------------------------------------------


async def test_a_payload_over_the_limit_fails_its_unit_and_nothing_else(storage: Storage) -> None:
    held = await storage.held()
    large = b'"' + b"x" * LIMIT + b'"'
    writes = [
        storage.unit(held, step(b"1", "0/1")),
        storage.unit(held, step(large, "0/2")),
        storage.unit(held, status="completed", end=Completed(large, MORNING)),
        storage.unit(held, status="failed", end=Failed(large, MORNING)),
        UseStoreOnce("items", SetEntry("", "a", large)),
        storage.unit(held, status_text=large.decode()),
        storage.unit(held, status_text="", status_data=large),
        storage.unit(held, step(b"3", "0/3")),
    ]
    results = await storage.together(*writes)
    assert [type(r).__name__ for r in results] == ["tuple", *["PayloadTooLarge"] * 6, "tuple"]
    with pytest.raises(PayloadTooLarge):
        await storage.deliver(held.view.id, Signal("decision", large))
    record = await storage.record(held.view.id)
    assert record.events[1:] == (step(b"1", "0/1"), step(b"3", "0/3"))
    assert (record.view.status, record.inbox) == ("running", ())


async def test_a_payload_at_the_limit_is_kept(storage: Storage) -> None:
    held = await storage.held()
    value = b'"' + b"x" * (LIMIT - 2) + b'"'
    await storage.append(held, step(value))
    assert (await storage.record(held.view.id)).events[1:] == (step(value),)


# --- attempts -------------------------------------------------------------------------------------


async def test_attempts_of_a_step_are_one_row_that_outlives_the_owner(storage: Storage) -> None:
    held = await storage.held()
    first = attempt(1, ended=True, first_error="503", last_error="503", next_at=MORNING + 1)
    second = replace(first, count=2, last_began=MORNING + 1, last_error="504", next_at=MORNING + 3)
    for noted in (first, second):
        await commit(storage.journal, NoteAttempt(held.n, held.epoch, noted, "waiting"))
    assert (await storage.view(held.view.id)).status == "waiting"
    await commit(storage.journal, TakeOver(storage.process))
    claimed = await storage.claim_one()
    assert claimed.attempts == (second,)
    assert claimed.held.begun
    await storage.append(claimed.held, step())
    assert (await storage.record(held.view.id)).attempts == (second,)


# --- the inbox ------------------------------------------------------------------------------------


async def test_what_was_delivered_waits_in_order_until_it_is_consumed(storage: Storage) -> None:
    held = await storage.held()
    delivered = [
        await storage.deliver(held.view.id, Signal("decision", b"1")),
        await storage.deliver(held.view.id, Cancel("enough")),
        await storage.deliver(held.view.id, Signal("decision", b"2")),
    ]
    assert delivered == [Delivered(held.n, storage.process)] * 3
    rows = await storage.journal.read(ReadInbox(held.n))
    assert [row.event for row in rows] == [
        Signalled("decision", b"1", MORNING),
        CancelAsked("enough", MORNING),
        Signalled("decision", b"2", MORNING),
    ]
    await storage.append(held, rows[0].event, consumed=(rows[0].row,))
    assert await storage.journal.read(ReadInbox(held.n)) == rows[1:]
    later = await storage.deliver(held.view.id, Signal("decision", b"3"))
    assert later.n == held.n
    await storage.append(held, consumed=tuple(row.row for row in rows[1:]))
    (last,) = await storage.journal.read(ReadInbox(held.n))
    assert last.row > rows[-1].row, "a row's number is never used twice"


async def test_nothing_can_be_delivered_after_the_end_or_to_nobody(storage: Storage) -> None:
    held = await storage.held()
    await storage.complete(held)
    for delivery in (Signal("decision", b"1"), Cancel()):
        with pytest.raises(CallEnded) as ended:
            await storage.deliver(held.view.id, delivery)
        assert ended.value.view.status == "completed"
        with pytest.raises(CallNotFound):
            await storage.deliver("unknown", delivery)
    assert (await storage.record(held.view.id)).inbox == ()


async def test_of_a_signal_that_counts_once_the_second_is_refused_even_when_the_first_was_consumed(
    storage: Storage,
) -> None:
    signals = (SignalSpec("decision", True, {}), SignalSpec("note", False, {}))
    held = await storage.held(asked(signals=signals))
    await storage.deliver(held.view.id, Signal("decision", b"1"))
    (row,) = await storage.journal.read(ReadInbox(held.n))
    await storage.append(held, row.event, consumed=(row.row,))
    with pytest.raises(AlreadyAnswered) as second:
        await storage.deliver(held.view.id, Signal("decision", b"2"))
    assert (second.value.name, second.value.view.id) == ("decision", held.view.id)
    for _ in range(2):
        await storage.deliver(held.view.id, Signal("note", b"1"))
    assert len(await storage.journal.read(ReadInbox(held.n))) == 2


async def test_a_cancel_of_a_shared_call_lets_go_until_the_last_who_asked(storage: Storage) -> None:
    shared = {"key": "Berlin", "shared": True}
    held = await storage.held(asked(**shared))
    await storage.accepted(asked(caller="you", **shared))
    await storage.deliver(held.view.id, Cancel("enough", caller="me"))
    assert await storage.journal.read(ReadInbox(held.n)) == ()
    assert (await storage.view(held.view.id)).callers == frozenset({"you"})
    await storage.deliver(held.view.id, Cancel("enough", caller="you"))
    (row,) = await storage.journal.read(ReadInbox(held.n))
    assert row.event == CancelAsked("enough", MORNING)


async def test_a_shared_call_that_somebody_unknown_asked_for_is_cancelled_only_for_all(storage: Storage) -> None:
    shared = {"key": "Berlin", "shared": True}
    held = await storage.held(asked(caller=None, **shared))
    await storage.accepted(asked(**shared))
    await storage.deliver(held.view.id, Cancel("enough", caller="me"))
    assert await storage.journal.read(ReadInbox(held.n)) == ()
    await storage.deliver(held.view.id, Cancel("by the operator"))
    assert len(await storage.journal.read(ReadInbox(held.n))) == 1


# --- children -------------------------------------------------------------------------------------


def child_of(parent: Held, place_in_parent: str = "0/1", **differences: Any) -> AppendChild:
    usual = {"function": "weather:job", "tool": "job", "kind": "job", "parent": Place(parent.view.id, place_in_parent)}
    return AppendChild(**place(parent, place_in_parent), request=asked(**(usual | differences)), detached=False)


async def start_child(storage: Storage, parent: Held, **differences: Any) -> Held:
    started = await commit(storage.journal, child_of(parent, **differences))
    assert isinstance(started, ChildStarted)
    return (await storage.claim_one("weather:job")).held


async def inbox(storage: Storage, held: Held) -> list[Any]:
    return [row.event for row in await storage.journal.read(ReadInbox(held.n))]


async def test_a_child_is_started_and_recorded_in_one_unit_and_its_end_reaches_the_parent(storage: Storage) -> None:
    parent = await storage.held()
    started = await commit(storage.journal, child_of(parent, call_id="its-place"))
    assert started == ChildStarted("0/1", "name", "digest", "its-place", MORNING)
    assert (await storage.record(parent.view.id)).events[-1] == started
    child = (await storage.claim_one("weather:job")).held
    assert (child.view.parent, child.view.kind, child.caller) == (parent.view.id, "job", "me")
    told = await storage.complete(child, b"42")
    assert told == (Delivered(parent.n, storage.process),)
    assert await inbox(storage, parent) == [ChildEnded("0/1", "its-place", b"42", None, MORNING)]


@pytest.mark.parametrize("how", ["failed", "cancelled"])
async def test_the_end_of_a_child_that_did_not_complete_reaches_the_parent_as_its_failure(
    storage: Storage, how: str
) -> None:
    parent = await storage.held()
    child = await start_child(storage, parent)
    await (storage.fail(child, BROKEN) if how == "failed" else storage.cancel(child, "enough"))
    (ended,) = await inbox(storage, parent)
    error = decode_error(ended.error)
    assert isinstance(error, CallFailed)
    assert error.call_id == child.view.id
    assert ("broken" if how == "failed" else "enough") in error.message
    if how == "failed":
        assert error.type == "ValueError"


async def test_a_detached_child_tells_nobody(storage: Storage) -> None:
    parent = await storage.held()
    await commit(storage.journal, replace(child_of(parent), detached=True))
    child = await storage.claim_one("weather:job")
    assert await storage.complete(child.held) == ()
    assert await inbox(storage, parent) == []


async def test_a_parked_parent_is_due_when_its_child_ends(storage: Storage) -> None:
    parent = await storage.held()
    child = await start_child(storage, parent)
    await storage.park(parent)
    assert await storage.claim() == ()
    assert await storage.complete(child, b"42") == (Delivered(parent.n, None),)
    claimed = await storage.claim_one()
    assert [row.event for row in claimed.inbox] == [ChildEnded("0/1", child.view.id, b"42", None, MORNING)]


async def test_a_parent_that_has_ended_is_told_nothing(storage: Storage) -> None:
    parent = await storage.held()
    child = await start_child(storage, parent)
    await storage.complete(parent)
    assert await storage.complete(child) == ()


async def test_a_keyed_child_that_runs_already_is_waited_for(storage: Storage) -> None:
    one, other = await storage.held(), await storage.held()
    child = await start_child(storage, one, key="Berlin")
    started = await commit(storage.journal, child_of(other, "0/7", key="Berlin"))
    assert started == ChildStarted("0/7", "name", "digest", child.view.id, MORNING)
    await storage.complete(child, b"42")
    for parent, key in ((one, "0/1"), (other, "0/7")):
        assert await inbox(storage, parent) == [ChildEnded(key, child.view.id, b"42", None, MORNING)]


async def test_a_child_that_has_ended_already_is_told_at_once(storage: Storage) -> None:
    one, other, third = [await storage.held() for _ in range(3)]
    child = await start_child(storage, one, key="Berlin")
    await storage.complete(child, b"42")
    await commit(storage.journal, child_of(other, key="Berlin"))
    await commit(storage.journal, AppendJoin(**place(third), call_id=child.view.id))
    for parent in (other, third):
        assert await inbox(storage, parent) == [ChildEnded("0/1", child.view.id, b"42", None, MORNING)]


async def test_all_who_wait_for_a_call_are_told_once(storage: Storage) -> None:
    parents = [await storage.held() for _ in range(3)]
    target = await storage.held(asked(function="other:f"))
    for parent in parents:
        await commit(storage.journal, AppendJoin(**place(parent), call_id=target.view.id))
    told = await storage.complete(target)
    assert {delivered.n for delivered in told} == {parent.n for parent in parents}
    for parent in parents:
        assert len(await inbox(storage, parent)) == 1


async def test_a_refused_child_is_recorded_as_refused_and_makes_no_call(storage: Storage) -> None:
    parent = await storage.held()
    await storage.held(asked(function="weather:job", tool="job", key="Berlin", digest="another"))
    refused = await commit(storage.journal, child_of(parent, key="Berlin"))
    assert isinstance(refused, ChildRefused)
    assert isinstance(decode_error(refused.error), Conflict)
    assert (await storage.record(parent.view.id)).events[-1] == refused
    assert await storage.claim("weather:job") == ()


async def test_joining_what_is_not_there_is_refused_in_the_body(storage: Storage) -> None:
    parent = await storage.held()
    refused = await commit(storage.journal, AppendJoin(**place(parent), call_id="unknown"))
    assert isinstance(refused, ChildRefused)
    assert isinstance(decode_error(refused.error), CallNotFound)


async def test_a_child_that_a_unit_gives_up_is_asked_to_cancel_and_a_call_that_was_merely_joined_is_not(
    storage: Storage,
) -> None:
    parent = await storage.held()
    child = await start_child(storage, parent)
    joined = await storage.held()
    await commit(storage.journal, AppendJoin(**place(parent, "0/2"), call_id=joined.view.id))
    told = await storage.append(parent, step(), unfollowed=("0/1", "0/2", "unknown"))
    assert told == (Delivered(child.n, storage.process),)
    assert await inbox(storage, child) == [CancelAsked("", MORNING)]
    assert await inbox(storage, joined) == []


# --- stores ---------------------------------------------------------------------------------------


async def test_a_store_is_a_sorted_map_with_compare_and_set(storage: Storage) -> None:
    async def use(operation: StoreOperation) -> StoreReply:
        return await commit(storage.journal, UseStoreOnce("items", operation))

    assert await use(GetEntry("", "a")) == StoreReply(True)
    for key in ("b", "a", "c", "ab"):
        assert await use(SetEntry("", key, key.encode())) == StoreReply(True)
    assert await use(GetEntry("", "a")) == StoreReply(True, (("a", b"a"),))
    assert await use(GetEntry("me", "a")) == StoreReply(True)
    assert await use(ListEntries("")) == StoreReply(True, (("a", b"a"), ("ab", b"ab"), ("b", b"b"), ("c", b"c")))
    assert await use(ListEntries("", prefix="a", limit=1)) == StoreReply(True, (("a", b"a"),))
    assert await use(ListEntries("", prefix="a", after="a")) == StoreReply(True, (("ab", b"ab"),))
    assert await use(DeleteEntry("", "b")) == StoreReply(True)
    assert await use(SwapEntry("", "b", None, b"new")) == StoreReply(True)
    assert await use(SwapEntry("", "b", b"old", b"newer")) == StoreReply(False, (("b", b"new"),))
    assert await use(SwapEntry("", "b", b"new", None)) == StoreReply(True)
    assert await use(SwapEntry("", "b", b"new", b"newer")) == StoreReply(False)


@pytest.mark.parametrize("prefix", ["", "a", "ä", "\ud7ff", "z\U0010ffff", "\U0010ffff"])
async def test_a_prefix_finds_exactly_the_keys_that_begin_with_it(storage: Storage, prefix: str) -> None:
    last = "\U0010ffff"
    keys = [prefix, prefix + "a", prefix + last, "a", "z", "ä", "\ud7ff\ue000", "\ue000", "z" + last + last]
    for key in keys:
        await commit(storage.journal, UseStoreOnce("items", SetEntry("", key, b"1")))
    reply = await commit(storage.journal, UseStoreOnce("items", ListEntries("", prefix)))
    assert [key for key, _ in reply.entries] == sorted({key for key in keys if key.startswith(prefix)})


async def test_a_store_write_of_a_body_and_its_event_are_one_unit(storage: Storage) -> None:
    held = await storage.held()
    write = AppendStore(**place(held), store="items", operation=SetEntry("", "a", b"1"))
    assert await commit(storage.journal, write) == StoreReply(True)
    assert (await storage.record(held.view.id)).events[-1] == StoreReturned(
        "0/1", "name", "digest", StoreReply(True).to_bytes(), MORNING
    )
    with pytest.raises(Fenced):
        await commit(storage.journal, replace(write, epoch=held.epoch + 1, operation=SetEntry("", "a", b"2")))
    reply = await commit(storage.journal, UseStoreOnce("items", GetEntry("", "a")))
    assert reply.entries == (("a", b"1"),)


# --- stuck calls and an operator's hand -----------------------------------------------------------


async def stuck(storage: Storage, *, diverged: bool = False, **differences: Any) -> Held:
    held = await storage.held(asked(**differences))
    await storage.append(held, step())
    failure = encode_error(Diverged("a", "b"))
    await commit(storage.journal, MarkStuck(held.n, held.epoch, MORNING, failure, diverged))
    return held


async def test_a_stuck_call_shows_why_and_nobody_claims_it(storage: Storage) -> None:
    held = await stuck(storage)
    view = await storage.view(held.view.id)
    assert view.status == "stuck"
    assert view.failure is not None
    assert "no longer fits" in describe_error(view.failure)
    await storage.deliver(held.view.id, Signal("decision", b"1"))
    assert await storage.claim() == ()


async def test_a_stuck_call_that_is_retried_goes_on_with_its_journal_and_its_inbox(storage: Storage) -> None:
    held = await stuck(storage)
    await storage.deliver(held.view.id, Signal("decision", b"1"))
    retry = RetryCall(held.view.id, "unused", MORNING, 7, "3.11")
    assert (await commit(storage.journal, retry)).call_id == held.view.id
    claimed = await storage.claim_one()
    assert claimed.events == (step(),)
    assert [row.event for row in claimed.inbox] == [Signalled("decision", b"1", MORNING)]
    assert (claimed.held.crashes, claimed.held.view.status, claimed.held.view.failure) == (0, "running", None)


async def test_a_cancel_ends_a_stuck_call_without_clean_up_and_tells_its_parent(storage: Storage) -> None:
    parent = await storage.held()
    child = await start_child(storage, parent)
    await commit(storage.journal, MarkStuck(child.n, child.epoch, MORNING, BROKEN, False))
    delivered = await storage.deliver(child.view.id, Cancel("give up"))
    assert delivered == Delivered(child.n, None, ended=True, parents=(Delivered(parent.n, storage.process),))
    assert (await storage.view(child.view.id)).status == "cancelled"
    assert len(await inbox(storage, parent)) == 1


@pytest.mark.parametrize("keeps_key", [False, True])
async def test_a_retry_of_a_failed_call_is_a_new_call_with_its_request_and_key(
    storage: Storage, keeps_key: bool
) -> None:
    held = await storage.held(asked(key="Berlin", arguments=b"[" + b"1," * 3000 + b"1]"))
    await storage.fail(held, BROKEN, keeps_key=keeps_key)
    accepted = await commit(storage.journal, RetryCall(held.view.id, "another", MORNING, 7, "3.12"))
    assert (accepted.call_id, accepted.how) == ("another", "new")
    again = (await storage.claim_one()).held
    assert (again.view.id, again.arguments, again.view.key) == ("another", held.arguments, "Berlin")
    assert (again.caller, again.seed, again.python) == ("me", 7, "3.12")
    assert (await storage.accepted(asked(key="Berlin"))).call_id == "another"
    assert (await storage.view(held.view.id)).status == "failed"


async def test_a_retry_whose_key_another_call_holds_by_now_is_that_call(storage: Storage) -> None:
    held = await storage.held(asked(key="Berlin"))
    await storage.fail(held, BROKEN)
    holder = await storage.held(asked(key="Berlin"))
    accepted = await commit(storage.journal, RetryCall(held.view.id, "another", MORNING, 7, "3.11"))
    assert accepted.call_id == holder.view.id


@pytest.mark.parametrize("status", ["running", "completed"])
async def test_only_what_did_not_succeed_can_be_retried(storage: Storage, status: str) -> None:
    held = await storage.held()
    if status == "completed":
        await storage.complete(held)
    with pytest.raises(Refused, match=status):
        await commit(storage.journal, RetryCall(held.view.id, "another", MORNING, 7, "3.11"))
    with pytest.raises(CallNotFound):
        await commit(storage.journal, RetryCall("unknown", "another", MORNING, 7, "3.11"))


async def test_a_released_call_is_due_for_anyone_and_an_ended_one_cannot_be_released(storage: Storage) -> None:
    held = await storage.held()
    assert await commit(storage.journal, ReleaseCall(held.view.id)) == Delivered(held.n, None)
    claimed = await storage.claim_one()
    assert claimed.held.crashes == 0
    await storage.complete(claimed.held)
    with pytest.raises(CallEnded):
        await commit(storage.journal, ReleaseCall(held.view.id))
