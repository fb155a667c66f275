"""Which call a request gets, on each journal."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import pytest

from perdure.core.codec import encode_error
from perdure.engine import Accepted, Principal, SignalSpec
from perdure.engines.embedded.journal import Held, HolderOf, TakeOver, commit
from perdure.errors import Conflict, PayloadTooLarge
from tests.engines.storage import FUNCTION, Storage, asked

BROKEN = encode_error(ValueError("broken"))


async def test_a_new_call_is_held_by_who_started_it_and_is_seen_at_once(storage: Storage) -> None:
    signals = (SignalSpec("decision", True, {"type": "object"}),)
    principal = Principal("ann", "https://issuer", "client", frozenset({"read", "write"}))
    request = asked(
        principal=principal, signals=signals, deadline=timedelta(minutes=1), key="k", waiting="r", kind="prompt"
    )
    started = await storage.start(request)
    held = started.held
    assert held is not None
    view = await storage.view(started.accepted.call_id)
    assert view == replace(held.view, version=view.version)
    assert (view.status, view.kind, view.key, view.signals, view.callers) == (
        "running",
        "prompt",
        "k",
        signals,
        frozenset({"me"}),
    )
    assert (held.caller, held.principal, held.arguments) == ("me", principal, request.arguments)
    assert held.deadline == storage.clock.now + 60
    assert (held.crashes, held.begun) == (0, False)


async def test_what_was_started_is_what_a_later_claim_gets(storage: Storage) -> None:
    principal = Principal("ann", None, "client", frozenset({"read"}))
    first = await storage.held(asked(principal=principal, arguments=b"[" + b"1," * 5000 + b"1]", deadline=timedelta(1)))
    await storage.park(first, wake_at=storage.clock.now)
    again = (await storage.claim_one()).held
    assert again.epoch == first.epoch + 1
    unchanged = replace(first, epoch=again.epoch, view=again.view, begun=True)
    assert again == unchanged


@pytest.mark.parametrize(("own", "after"), [(False, None), (True, timedelta(minutes=5)), (False, timedelta(minutes=5))])
async def test_a_call_that_is_delayed_or_not_served_here_is_owned_by_nobody(
    storage: Storage, own: bool, after: timedelta | None
) -> None:
    started = await storage.start(asked(after=after), own=own)
    assert started.held is None
    storage.clock.now += 0 if after is None else after.total_seconds() - 1
    assert len(await storage.claim()) == (1 if after is None else 0)
    storage.clock.now += 1
    assert len(await storage.claim()) == (0 if after is None else 1)


async def test_a_deadline_counts_from_when_the_call_is_due(storage: Storage) -> None:
    await storage.start(asked(after=timedelta(hours=1), deadline=timedelta(minutes=1)))
    storage.clock.now += 3600
    assert (await storage.claim_one()).held.deadline == storage.clock.now + 60


# --- the order of the decision --------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What there is when the request comes, and what the request gets."""

    name: str
    before: dict[str, Any]
    then: Callable[[Storage, Held], Any] | None
    request: dict[str, Any]
    gets: str


async def complete(storage: Storage, held: Held) -> None:
    await storage.complete(held)


async def fail(storage: Storage, held: Held) -> None:
    await storage.fail(held, BROKEN)


async def fail_keeping_the_key(storage: Storage, held: Held) -> None:
    await storage.fail(held, BROKEN, keeps_key=True)


async def cancel(storage: Storage, held: Held) -> None:
    await storage.cancel(held)


async def lose_the_client(storage: Storage, held: Held) -> None:
    await storage.let_go("first", handed=False)


async def hand(storage: Storage, held: Held) -> None:
    await storage.let_go("first", handed=True)


async def complete_and_lose_the_client(storage: Storage, held: Held) -> None:
    await storage.complete(held)
    await storage.let_go("first", handed=False)


async def fail_and_lose_the_client(storage: Storage, held: Held) -> None:
    await storage.fail(held, BROKEN)
    await storage.let_go("first", handed=False)


async def complete_long_ago_unheard(storage: Storage, held: Held) -> None:
    await complete_and_lose_the_client(storage, held)
    storage.clock.now += 601


async def complete_and_hand(storage: Storage, held: Held) -> None:
    await storage.complete(held)
    await storage.let_go("first", handed=True)


async def complete_and_hand_ten_minutes_ago(storage: Storage, held: Held) -> None:
    await complete_and_hand(storage, held)
    storage.clock.now += 600


async def die(storage: Storage, held: Held) -> None:
    await commit(storage.journal, TakeOver(storage.process))


WAITED = {"waiting": "first"}
AGAIN = {"waiting": "second"}
KEYED = WAITED | {"key": "Berlin"}
KEYED_AGAIN = AGAIN | {"key": "Berlin"}
TEN_MINUTES = {"reuse": timedelta(minutes=10)}
SAME_IDEMPOTENCY = {"idempotency_key": "once"}
OTHER = {"digest": "digest of Rome"}
OTHER_FUNCTION = {"function": "weather:other"}
TWIN = WAITED | {"attach_identical": True}
TWIN_AGAIN = AGAIN | {"attach_identical": True}
SHARED = {"shared": True}
NOBODY = {"caller": None}
YOU = {"caller": "you"}

CASES = [
    Case("nothing is like it", WAITED, None, AGAIN | OTHER, "new"),
    # the client's idempotency key
    Case("same idempotency key", WAITED | SAME_IDEMPOTENCY, None, AGAIN | SAME_IDEMPOTENCY, "attached"),
    Case("after it completed", WAITED | SAME_IDEMPOTENCY, complete_and_hand, AGAIN | SAME_IDEMPOTENCY, "attached"),
    Case("after it failed", WAITED | SAME_IDEMPOTENCY, fail, AGAIN | SAME_IDEMPOTENCY, "attached"),
    Case("with other arguments", WAITED | SAME_IDEMPOTENCY, None, AGAIN | SAME_IDEMPOTENCY | OTHER, "conflict"),
    Case("of another function", WAITED | SAME_IDEMPOTENCY, None, AGAIN | SAME_IDEMPOTENCY | OTHER_FUNCTION, "conflict"),
    Case("of another caller", WAITED | SAME_IDEMPOTENCY, None, AGAIN | SAME_IDEMPOTENCY | YOU, "new"),
    Case("it beats the key", KEYED | SAME_IDEMPOTENCY, complete, SAME_IDEMPOTENCY | {"key": "other"}, "attached"),
    # the caller's own orphan
    Case("own orphan", WAITED, lose_the_client, AGAIN, "adopted"),
    Case("own orphan that completed", WAITED, complete_and_lose_the_client, AGAIN, "adopted"),
    Case("own orphan that failed", WAITED, fail_and_lose_the_client, AGAIN, "adopted"),
    Case("own orphan with a key", KEYED, fail_and_lose_the_client, KEYED_AGAIN, "adopted"),
    Case("orphan of a dead process", WAITED, die, AGAIN, "adopted"),
    Case("orphan that ended too long ago", WAITED, complete_long_ago_unheard, AGAIN, "new"),
    Case("still waited for", WAITED, None, AGAIN, "new"),
    Case("handed", WAITED, complete_and_hand, AGAIN, "new"),
    Case("handed while it runs, as a task", WAITED, hand, AGAIN, "new"),
    Case("never waited for", {}, None, AGAIN, "new"),
    Case("by a request that does not wait", WAITED, lose_the_client, {}, "new"),
    Case("orphan of another caller", WAITED, lose_the_client, AGAIN | YOU, "new"),
    Case("orphan of another function", WAITED, lose_the_client, AGAIN | OTHER_FUNCTION, "new"),
    Case("orphan with other arguments", WAITED, lose_the_client, AGAIN | OTHER, "new"),
    Case("orphan of nobody", WAITED | NOBODY, lose_the_client, AGAIN | NOBODY, "new"),
    # the tool's key
    Case("key of a running call", KEYED, None, KEYED_AGAIN, "attached"),
    Case("key of a completed call", KEYED, complete_and_hand, KEYED_AGAIN, "attached"),
    Case("key within its reuse", KEYED | TEN_MINUTES, complete_and_hand, KEYED_AGAIN, "attached"),
    Case("key after its reuse", KEYED | TEN_MINUTES, complete_and_hand_ten_minutes_ago, KEYED_AGAIN, "new"),
    Case("key without reuse", KEYED | {"reuse": timedelta(0)}, complete_and_hand, KEYED_AGAIN, "new"),
    Case("key of a failed call", KEYED, fail, KEYED_AGAIN, "new"),
    Case("key of a cancelled call", KEYED, cancel, KEYED_AGAIN, "new"),
    Case("key of an unknown outcome", KEYED, fail_keeping_the_key, KEYED_AGAIN, "attached"),
    Case("key with other arguments", KEYED, None, KEYED_AGAIN | OTHER, "conflict"),
    Case("key with other arguments after the end", KEYED, complete, KEYED_AGAIN | OTHER, "conflict"),
    Case("key of another caller", KEYED, None, KEYED_AGAIN | YOU, "new"),
    Case("key of another tool", KEYED, None, KEYED_AGAIN | {"tool": "get_alerts"} | OTHER_FUNCTION, "new"),
    Case("shared key", KEYED | SHARED, None, KEYED_AGAIN | SHARED | YOU, "attached"),
    Case("shared key of nobody", KEYED | SHARED | NOBODY, None, KEYED_AGAIN | SHARED, "attached"),
    Case("key of nobody", KEYED | NOBODY, None, KEYED_AGAIN | NOBODY, "new"),
    # identical="attach"
    Case("identical", TWIN, None, TWIN_AGAIN, "attached"),
    Case("identical, a task", TWIN, hand, TWIN_AGAIN, "attached"),
    Case("identical, ended", TWIN, complete_and_hand, TWIN_AGAIN, "new"),
    Case("identical, other arguments", TWIN, None, TWIN_AGAIN | OTHER, "new"),
    Case("identical of nobody", TWIN | NOBODY, None, TWIN_AGAIN | NOBODY, "new"),
    # a place in a parent
    Case("same place", {"call_id": "child"}, None, {"call_id": "child"}, "attached"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_a_request_gets(storage: Storage, case: Case) -> None:
    first = await storage.held(asked(**case.before))
    if case.then is not None:
        await case.then(storage, first)
    request = asked(**case.request)
    if case.gets == "conflict":
        with pytest.raises(Conflict):
            await storage.accepted(request)
        return
    accepted = await storage.accepted(request)
    assert accepted.how == case.gets
    assert (accepted.call_id == first.view.id) is (case.gets != "new")


async def test_a_conflict_names_the_kind_of_key_and_makes_no_call(storage: Storage) -> None:
    await storage.held(asked(key="Berlin", idempotency_key="once"))
    with pytest.raises(Conflict) as by_key:
        await storage.accepted(asked(key="Berlin", digest="another"))
    with pytest.raises(Conflict) as by_idempotency_key:
        await storage.accepted(asked(idempotency_key="once", digest="another"))
    assert (by_key.value.kind, by_idempotency_key.value.kind) == ("key", "idempotency key")
    assert len(await storage.claim(limit=10)) == 0


# --- orphans --------------------------------------------------------------------------------------


async def test_of_several_orphans_the_oldest_is_adopted_first_and_each_once(storage: Storage) -> None:
    orphans = [await storage.accepted(asked(waiting=f"lost {i}")) for i in range(3)]
    for i in (2, 0, 1):
        await storage.let_go(f"lost {i}", handed=False)
    adopted = [await storage.accepted(asked(waiting=f"again {i}")) for i in range(4)]
    assert adopted[:3] == [Accepted(orphan.call_id, "adopted") for orphan in orphans]
    assert adopted[3].how == "new"


async def test_the_mark_of_an_answer_is_that_of_the_last_reply(storage: Storage) -> None:
    first = await storage.accepted(asked(key="Berlin", waiting="first"))
    await storage.let_go("first", handed=True)
    assert (await storage.accepted(asked(key="Berlin", waiting="second"))).how == "attached"
    await storage.let_go("second", handed=False)
    assert await storage.accepted(asked(waiting="third")) == Accepted(first.call_id, "adopted")


async def test_a_call_with_another_request_waiting_is_no_orphan(storage: Storage) -> None:
    await storage.accepted(asked(key="Berlin", waiting="first"))
    await storage.accepted(asked(key="Berlin", waiting="second"))
    await storage.let_go("first", handed=False)
    assert (await storage.accepted(asked(waiting="third"))).how == "new"
    await storage.let_go("second", handed=False)
    assert (await storage.accepted(asked(waiting="fourth"))).how == "adopted"


async def test_a_request_that_asks_twice_waits_once(storage: Storage) -> None:
    for _ in range(2):
        await storage.accepted(asked(key="Berlin", waiting="first"))
    await storage.let_go("first", handed=False)
    assert (await storage.accepted(asked(waiting="second"))).how == "adopted"


async def test_letting_go_of_what_nobody_waits_for_does_nothing(storage: Storage) -> None:
    await storage.let_go("unknown", handed=True)


# --- keys -----------------------------------------------------------------------------------------


async def test_an_idempotency_key_is_bound_to_the_call_that_the_request_got(storage: Storage) -> None:
    holder = await storage.held(asked(key="Berlin"))
    await storage.accepted(asked(key="Berlin", idempotency_key="once"))
    await storage.fail(holder, BROKEN)
    again = await storage.accepted(asked(key="Berlin", idempotency_key="once"))
    assert again == Accepted(holder.view.id, "attached")


async def test_no_tool_and_key_is_mistaken_for_another(storage: Storage) -> None:
    names = [("a", "b c"), ("a b", "c"), ("a", "1:b"), ("a1:b", ""), ("1", "1:1"), ("11:", "1")]
    accepted = [await storage.accepted(asked(tool=tool, key=key)) for tool, key in names]
    assert [a.how for a in accepted] == ["new"] * len(names)


async def test_a_key_is_looked_up_for_its_caller_for_all_or_for_anybody(storage: Storage) -> None:
    async def holder(key: str, caller: str | None) -> str | None:
        view = await storage.journal.read(HolderOf("get_forecast", key, caller))
        return None if view is None else view.id

    mine = await storage.accepted(asked(key="Berlin"))
    ours = await storage.accepted(asked(key="Rome", shared=True, caller="you"))
    assert await holder("Berlin", "me") == mine.call_id
    assert await holder("Berlin", "you") is None
    assert await holder("Berlin", None) == mine.call_id
    assert await holder("Rome", "me") == ours.call_id
    assert await holder("Rom", None) is None


async def test_a_key_whose_reuse_is_over_is_held_by_nobody(storage: Storage) -> None:
    held = await storage.held(asked(key="Berlin", reuse=timedelta(minutes=10)))
    await storage.complete(held)
    storage.clock.now += 599
    assert await storage.journal.read(HolderOf("get_forecast", "Berlin", "me")) is not None
    storage.clock.now += 1
    assert await storage.journal.read(HolderOf("get_forecast", "Berlin", "me")) is None


# --- shared calls ---------------------------------------------------------------------------------


async def test_each_caller_of_a_shared_call_may_see_it_and_nobody_owns_it(storage: Storage) -> None:
    shared = {"key": "Berlin", "shared": True}
    held = await storage.held(asked(principal=Principal("me"), **shared))
    assert (held.caller, held.principal, held.view.callers) == (None, None, frozenset({"me"}))
    await storage.accepted(asked(caller="you", **shared))
    await storage.accepted(asked(caller=None, **shared))
    assert (await storage.view(held.view.id)).callers == frozenset({"me", "you", ""})


async def test_arguments_over_the_limit_make_no_call(storage: Storage) -> None:
    with pytest.raises(PayloadTooLarge):
        await storage.accepted(asked(arguments=b"x" * (16 * 1024 * 1024 + 1)))
    assert await storage.claim() == ()


async def test_functions_have_their_own_calls(storage: Storage) -> None:
    await storage.start(own=False)
    await storage.start(asked(function="other:job"), own=False)
    assert (await storage.claim_one(FUNCTION)).held.view.function == FUNCTION
    assert (await storage.claim_one("other:job")).held.view.function == "other:job"
