from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import timedelta
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from perdure import CallFailed, DurableMCP
from perdure.servers.billing import Decision, Policy
from perdure.servers.invoice import InvoiceTools, invoice_server, mcp, open_client, status_of
from perdure.servers.invoice_way import InvoiceWay, decision
from perdure.servers.standins.faults import Cut, Down, Fault, Refuse, Slow, by_chance
from perdure.testing import Trial, crash_everywhere, trial
from tests.servers.invoice_services import Services, invoice, services
from tests.servers.processes import Refusal, ask

Work = tuple[Services, Trial]

DAY = timedelta(days=1)
SMALL = invoice(("pens", "9.90"), ("ink", "90.09"))
LARGE = invoice(("hosting", "250.00"), ("pens", "9.90"))


@pytest.fixture
async def work(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Work]:
    async with services(monkeypatch) as found, trial(mcp) as t:
        yield found, t


@asynccontextmanager
async def failing(monkeypatch: pytest.MonkeyPatch, **faults: Iterable[Fault | None]) -> AsyncGenerator[Work]:
    """`erp`, `payments` and `lookups`: what the requests to these meet."""
    async with services(monkeypatch, **faults) as found, trial(mcp) as t:
        yield found, t


async def sent(t: Trial, given: dict[str, Any]) -> str:
    """The id of an invoice's call, which has gone as far as it can without time or people."""
    call_id: str = (await ask(t.client, "process_invoice", **given))["call_id"]
    await t.settle()
    return call_id


async def state(t: Trial, call_id: str) -> str:
    return (await ask(t.client, "invoice_status", call_id=call_id))["state"]


async def lines(t: Trial, call_id: str) -> dict[str, str]:
    status = await ask(t.client, "invoice_status", call_id=call_id)
    return {line["description"]: line["state"] for line in status["lines"]}


# --- the policy -----------------------------------------------------------------------------------


async def test_an_invoice_under_a_hundred_is_approved_by_policy(work: Work) -> None:
    found, t = work
    call_id = await sent(t, SMALL)

    status = await ask(t.client, "invoice_status", call_id=call_id)
    assert (status["state"], status["total"], found.paid) == ("PAID", "99.99", ["ink", "pens"])
    assert (status["decision"]["approved"], status["decision"]["by"]) == (True, "policy")


@pytest.mark.parametrize("amounts", [("100",), ("99.99", "0.01"), ("33.34",) * 3])
async def test_from_a_total_of_a_hundred_on_a_person_is_asked(amounts: tuple[str, ...], work: Work) -> None:
    found, t = work
    call_id = await sent(t, invoice(*((f"line {n}", amount) for n, amount in enumerate(amounts))))

    assert await state(t, call_id) == "PENDING-APPROVAL"
    assert found.paid == []


async def test_money_is_decimal(work: Work) -> None:
    _, t = work
    call_id = await sent(t, invoice(*((f"line {n}", "0.10") for n in range(3))))
    assert (await ask(t.client, "invoice_status", call_id=call_id))["total"] == "0.30"


# --- deciding -------------------------------------------------------------------------------------


async def test_an_invoice_that_is_approved_on_the_fourth_day_is_paid(work: Work) -> None:
    found, t = work
    call_id = await sent(t, LARGE)
    await t.advance(4 * DAY)
    assert await state(t, call_id) == "PENDING-APPROVAL"

    await ask(t.client, "approve_invoice", call_id=call_id, note="as agreed")
    await t.settle()

    status = await ask(t.client, "invoice_status", call_id=call_id)
    assert (status["state"], status["decision"]["note"]) == ("PAID", "as agreed")
    assert found.paid == ["hosting", "pens"]


async def test_a_rejected_invoice_is_not_paid(work: Work) -> None:
    found, t = work
    call_id = await sent(t, LARGE)
    await ask(t.client, "reject_invoice", call_id=call_id, reason="not ours")
    await t.settle()

    status = await ask(t.client, "invoice_status", call_id=call_id)
    assert (status["state"], status["decision"]["note"], found.paid) == ("REJECTED", "not ours", [])


async def test_after_five_days_the_policy_rejects(work: Work) -> None:
    found, t = work
    call_id = await sent(t, LARGE)
    await t.advance(5 * DAY - timedelta(seconds=10))
    assert await state(t, call_id) == "PENDING-APPROVAL"
    await t.advance(timedelta(seconds=10))

    status = await ask(t.client, "invoice_status", call_id=call_id)
    assert (status["state"], status["decision"]["by"], found.paid) == ("EXPIRED", "policy", [])
    with pytest.raises(Refusal, match="has been rejected already; it is EXPIRED"):
        await ask(t.client, "approve_invoice", call_id=call_id)


async def test_another_policy_approves_after_its_own_time(monkeypatch: pytest.MonkeyPatch) -> None:
    lenient = invoice_server(policy=Policy(on_expiry="approve", patience=DAY))
    async with services(monkeypatch) as found, trial(lenient) as t:
        call_id = await sent(t, LARGE)
        await t.advance(DAY)
        assert (await state(t, call_id), found.paid) == ("PAID", ["hosting", "pens"])


async def test_an_approval_before_the_invoice_is_ready_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with failing(monkeypatch, erp=[Refuse(503, "3600")]) as (found, t):
        call_id = await sent(t, LARGE)
        assert await state(t, call_id) == "PENDING-VALIDATION"
        await ask(t.client, "approve_invoice", call_id=call_id)
        assert found.paid == []

        await t.advance(timedelta(hours=1))
        assert (await state(t, call_id), found.paid) == ("PAID", ["hosting", "pens"])


async def test_an_approval_before_anybody_works_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mcp = invoice_server(engine=tmp_path / "invoice.db")
    async with services(monkeypatch) as found:
        async with mcp.serving(work=False):
            call = await mcp.calls.start("process_invoice", LARGE)
            assert status_of(await mcp.calls.get(call.id)).state == "INITIALIZING"
            await mcp.calls.signal(call.id, decision, Decision(approved=True))
        async with mcp.serving():
            assert (await mcp.calls.result(call.id, timeout=timedelta(seconds=30))).state == "PAID"
        assert found.paid == ["hosting", "pens"]


async def test_a_rejection_before_the_invoice_is_ready_beats_the_policy(monkeypatch: pytest.MonkeyPatch) -> None:
    async with failing(monkeypatch, erp=[Refuse(503, "3600")]) as (found, t):
        call_id = await sent(t, SMALL)
        await ask(t.client, "reject_invoice", call_id=call_id)
        await t.advance(timedelta(hours=1))
        assert (await state(t, call_id), found.paid) == ("REJECTED", [])


@pytest.mark.parametrize("first", ["approve_invoice", "reject_invoice"])
@pytest.mark.parametrize("second", ["approve_invoice", "reject_invoice"])
async def test_a_second_decision_is_refused_with_the_state(first: str, second: str, work: Work) -> None:
    _, t = work
    due = (t.now + 30 * DAY).isoformat()
    call_id = await sent(t, invoice(("hosting", "250", due)))
    await ask(t.client, first, call_id=call_id)
    await t.settle()

    taken, reached = ("approved", "PAYING") if first == "approve_invoice" else ("rejected", "REJECTED")
    with pytest.raises(Refusal, match=f"Too late: this invoice has been {taken} already; it is {reached}"):
        await ask(t.client, second, call_id=call_id)
    assert await state(t, call_id) == reached


async def test_what_the_policy_decided_is_decided(work: Work) -> None:
    found, t = work
    call_id = await sent(t, invoice(("pens", "9.90", (t.now + DAY).isoformat())))
    with pytest.raises(Refusal, match="has been approved already; it is PAYING"):
        await ask(t.client, "reject_invoice", call_id=call_id)
    await t.advance(DAY)
    assert found.paid == ["pens"]


async def test_of_racing_decisions_one_wins(work: Work) -> None:
    found, t = work
    call_id = await sent(t, LARGE)
    answers = await asyncio.gather(
        *(ask(t.client, f"{verb}_invoice", call_id=call_id) for verb in ["approve", "reject"] * 5),
        return_exceptions=True,
    )
    await t.settle()

    refusals = [str(answer) for answer in answers if isinstance(answer, Refusal)]
    won = answers.index(next(answer for answer in answers if not isinstance(answer, BaseException)))
    taken, reached = ("rejected", "REJECTED") if won % 2 else ("approved", "(PAYING|PAID)")
    assert len(refusals) == 9
    assert all(re.search(f"has been {taken} already; it is {reached}", refusal) for refusal in refusals)
    assert await state(t, call_id) == ("REJECTED" if won % 2 else "PAID")
    assert found.paid == ([] if won % 2 else ["hosting", "pens"])


async def test_what_is_no_invoice_cannot_be_decided_upon(work: Work) -> None:
    _, t = work
    await sent(t, SMALL)
    line = (await t.calls.find(tool="pay_line", limit=1)).calls[0]
    for tool in "approve_invoice", "reject_invoice", "invoice_status":
        with pytest.raises(Refusal, match="There is no invoice nonsense"):
            await ask(t.client, tool, call_id="nonsense")
        with pytest.raises(Refusal, match=f"Call {line.id} is no invoice"):
            await ask(t.client, tool, call_id=line.id)


# --- validation -----------------------------------------------------------------------------------


async def test_validation_outlives_every_fault_of_the_erp(monkeypatch: pytest.MonkeyPatch) -> None:
    async with failing(monkeypatch, erp=[Refuse(503), Refuse(429, "60"), Cut(), Down(0.2)]) as (found, t):
        call_id = await sent(t, SMALL)
        await t.advance(timedelta(hours=1))
        assert (await state(t, call_id), found.paid) == ("PAID", ["ink", "pens"])


async def test_an_invoice_that_the_erp_does_not_take_fails_and_may_be_sent_again(work: Work) -> None:
    found, t = work
    call_id = await sent(t, invoice(("pens", "9.90"), customer="nobody"))
    status = await ask(t.client, "invoice_status", call_id=call_id)
    assert (status["state"], found.paid) == ("FAILED", [])
    assert "there is no customer nobody" in status["problem"]
    with pytest.raises(Refusal, match="takes no decision any more; it is FAILED"):
        await ask(t.client, "approve_invoice", call_id=call_id)

    mended = await sent(t, invoice(("pens", "9.90"), customer="ann"))
    assert (await state(t, mended), found.paid) == ("PAID", ["pens"])


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        (invoice(), "at least 1 item"),
        (invoice(("pens", "0")), "greater than 0"),
        (invoice(("pens", "-5")), "greater than 0"),
        (invoice(("pens", "1.005")), "no more than 2 decimal places"),
        (invoice(("pens", "NaN")), "finite number"),
        (invoice(("pens", "much")), "valid decimal"),
        (invoice(("pens", "1", "soon")), "valid datetime"),
        (invoice(("pens", "1", "9999-12-31T23:59:59-01:00")), "within the years 1 to 9999"),
        (invoice(("pens", "1"), number=""), "at least 1 character"),
    ],
)
async def test_what_is_no_invoice_is_refused(given: dict[str, Any], problem: str, work: Work) -> None:
    found, t = work
    with pytest.raises(Refusal, match=problem):
        await ask(t.client, "process_invoice", **given)
    assert found.validations == 0


# --- one call per invoice -------------------------------------------------------------------------


async def test_an_invoice_that_is_sent_again_is_the_same_call(work: Work) -> None:
    found, t = work
    first = await sent(t, SMALL)
    await t.advance(300 * DAY)
    assert await sent(t, SMALL) == first
    assert (found.validations, found.paid) == (1, ["ink", "pens"])


@pytest.mark.parametrize(
    ("amount", "due"),
    [("100.00", "2020-01-01"), ("1e2", "2020-01-01T00:00:00Z"), ("100.0", "2020-01-01T01:00:00+01:00")],
)
async def test_an_invoice_that_is_written_otherwise_is_the_same(amount: str, due: str, work: Work) -> None:
    _, t = work
    call_id = await sent(t, invoice(("pens", "100", "2020-01-01T00:00:00")))
    assert await sent(t, invoice(("pens", amount, due))) == call_id
    (line,) = (await ask(t.client, "invoice_status", call_id=call_id))["lines"]
    assert (line["amount"], line["due_date"]) == ("100.00", "2020-01-01T00:00:00Z")


async def test_another_invoice_of_the_same_id_is_refused(work: Work) -> None:
    found, t = work
    await sent(t, SMALL)
    with pytest.raises(Refusal, match="'invoice-7' of 'process_invoice' belongs to a call with other arguments"):
        await ask(t.client, "process_invoice", **LARGE)
    assert found.paid == ["ink", "pens"]


# --- paying ---------------------------------------------------------------------------------------


async def test_each_line_is_paid_when_it_is_due(work: Work) -> None:
    found, t = work
    soon, later = ((t.now + days * DAY).strftime("%Y-%m-%dT%H:%M:%SZ") for days in (3, 40))
    call_id = await sent(t, invoice(("past", "1"), ("later", "2", later), ("soon", "3", soon)))
    assert await lines(t, call_id) == {"past": "PAID", "later": "WAITING", "soon": "WAITING"}
    assert found.paid == ["past"]

    await t.advance(3 * DAY)
    assert (await state(t, call_id), found.paid) == ("PAYING", ["past", "soon"])
    await t.advance(37 * DAY)
    assert (await state(t, call_id), found.paid) == ("PAID", ["later", "past", "soon"])


@pytest.mark.parametrize(
    "due", ["2020-01-01", "2020-01-01T00:00:00", "2020-01-01T00:00:00Z", "2020-01-01T00:00:00+02:00"]
)
async def test_what_was_due_in_the_past_is_paid_at_once(due: str, work: Work) -> None:
    found, t = work
    call_id = await sent(t, invoice(("pens", "1", due)))
    assert (await state(t, call_id), found.paid) == ("PAID", ["pens"])


async def test_a_line_that_is_forced_is_paid_now(work: Work) -> None:
    found, t = work
    never = "9999-12-31T23:59:59Z"
    call_id = await sent(t, invoice(("a", "1", never), ("b", "2", never)))

    assert await ask(t.client, "force_payment", call_id=call_id, line=2) == {"result": "Line 2 is paid now."}
    await t.settle()
    assert (await state(t, call_id), await lines(t, call_id)) == ("PAYING", {"a": "WAITING", "b": "PAID"})
    with pytest.raises(Refusal, match="Too late: line 2 is PAID"):
        await ask(t.client, "force_payment", call_id=call_id, line=2)

    await ask(t.client, "force_payment", call_id=call_id, line=1)
    await t.settle()
    assert (await state(t, call_id), found.paid) == ("PAID", ["a", "b"])
    with pytest.raises(Refusal, match="this invoice is PAID"):
        await ask(t.client, "force_payment", call_id=call_id, line=1)


def ended_elsewhere(file: Path) -> DurableMCP[Any]:
    """A process that pays lines, in which no invoice hears of it."""
    mcp = DurableMCP("invoice", lifespan=open_client, engine=file)
    tools = InvoiceTools(mcp, InvoiceWay(mcp, Policy()), authenticates=False)
    mcp.add_tool(tools.force_payment)
    return mcp


async def paying(file: Path, *dues: str) -> tuple[str, list[str]]:
    """An invoice that nobody runs any more, and the jobs of its lines."""
    mcp = invoice_server(engine=file)
    async with mcp.serving(), asyncio.timeout(30):
        given = invoice(*((f"line {n}", "9", due) for n, due in enumerate(dues, 1)))
        call = await mcp.calls.start("process_invoice", given)
        async for view in mcp.calls.watch(call.id):
            if status_of(view).state == "PAYING":
                break
        jobs = [await mcp.calls.lookup("pay_line", f"{call.id}-{n}") for n, _ in enumerate(dues, 1)]
    return call.id, [job.id for job in jobs if job]


async def test_no_line_is_forced_whose_payment_has_ended_though_its_invoice_shows_it_as_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "invoice.db"
    never = "9999-12-31T23:59:59Z"
    async with services(monkeypatch, payments=[Cut()], lookups=repeat(Refuse(403))) as found:
        call_id, jobs = await paying(file, never, never)
        elsewhere = ended_elsewhere(file)
        async with elsewhere.serving(), Client(elsewhere) as client, asyncio.timeout(30):
            await elsewhere.calls.cancel(jobs[0])
            assert await ask(client, "force_payment", call_id=call_id, line=2) == {"result": "Line 2 is paid now."}
            for job in jobs:
                with pytest.raises(CallFailed):
                    await elsewhere.calls.result(job)
            for line, ended in enumerate(["FAILED", "UNKNOWN"], 1):
                with pytest.raises(Refusal, match=f"Too late: line {line} is {ended}"):
                    await ask(client, "force_payment", call_id=call_id, line=line)
            status = status_of(await elsewhere.calls.get(call_id))
    assert [line.state for line in status.lines] == ["WAITING", "WAITING"]
    assert found.paid == ["line 2"]


async def test_no_payment_is_forced_before_it_is_approved(work: Work) -> None:
    found, t = work
    call_id = await sent(t, LARGE)
    with pytest.raises(Refusal, match="No payment can be forced: this invoice is PENDING-APPROVAL"):
        await ask(t.client, "force_payment", call_id=call_id, line=1)
    for line in 0, 3:
        with pytest.raises(Refusal, match=f"There is no line {line}: this invoice has the lines 1 to 2"):
            await ask(t.client, "force_payment", call_id=call_id, line=line)
    await t.settle()
    assert found.paid == []


async def test_a_line_that_cannot_be_paid_is_told_and_the_others_are_paid(work: Work) -> None:
    found, t = work
    call_id = await sent(t, invoice(("pens", "1"), ("a yacht", "10001"), ("ink", "2")))
    await ask(t.client, "approve_invoice", call_id=call_id)
    await t.settle()

    status = await ask(t.client, "invoice_status", call_id=call_id)
    assert (status["state"], await lines(t, call_id)) == (
        "FAILED",
        {"pens": "PAID", "a yacht": "FAILED", "ink": "PAID"},
    )
    assert "a yacht: more than 10000" in status["lines"][1]["problem"]
    assert found.paid == ["ink", "pens"]


@pytest.mark.parametrize(
    ("payments", "lookups"),
    [
        pytest.param([Refuse(503)], [], id="refused, and not paid"),
        pytest.param([Cut()], [], id="paid, and the answer is lost"),
        pytest.param([Cut()], [Refuse(503)] * 3, id="paid, and nobody says so for a while"),
        pytest.param([Down(0.2)], [], id="down"),
        pytest.param([Slow(0.2)], [], id="slow"),
    ],
)
async def test_a_payment_whose_outcome_is_unknown_is_looked_for(
    payments: list[Fault | None], lookups: list[Fault | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async with failing(monkeypatch, payments=payments, lookups=lookups) as (found, t):
        call_id = await sent(t, invoice(("pens", "9.90")))
        await t.advance(DAY)
        assert (await state(t, call_id), found.paid) == ("PAID", ["pens"])


@pytest.mark.parametrize("seed", range(5))
async def test_each_line_is_paid_once_whatever_goes_wrong_by_chance(seed: int, monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = [Refuse(503), Refuse(429, "30"), Cut()]
    chance = {of: islice(by_chance(seed + n, wrong), 99) for n, of in enumerate(("erp", "payments", "lookups"))}
    async with failing(monkeypatch, **chance) as (found, t):
        call_id = await sent(t, invoice(*((f"line {n}", "9") for n in range(8))))
        await t.advance(DAY)
        assert (await state(t, call_id), found.paid) == ("PAID", [f"line {n}" for n in range(8)])


async def test_a_payment_of_which_nobody_says_whether_it_happened_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    async with failing(monkeypatch, payments=[Cut()], lookups=repeat(Refuse(403))) as (_, t):
        call_id = await sent(t, invoice(("pens", "9.90")))
        await t.advance(DAY)
        assert (await state(t, call_id), await lines(t, call_id)) == ("FAILED", {"pens": "UNKNOWN"})
        (line,) = (await ask(t.client, "invoice_status", call_id=call_id))["lines"]
        assert "Only if it did not happen, retry the call" in line["problem"]


async def test_a_cancelled_invoice_pays_nothing_more(work: Work) -> None:
    found, t = work
    call_id = await sent(t, invoice(("now", "1"), ("later", "2", (t.now + DAY).isoformat())))
    await t.calls.cancel(call_id, reason="a mistake")
    await t.advance(2 * DAY)

    status = await ask(t.client, "invoice_status", call_id=call_id)
    assert (status["state"], found.paid) == ("CANCELLED", ["now"])
    assert await lines(t, call_id) == {"now": "PAID", "later": "WAITING"}
    assert "a mistake" in status["problem"]


# --- crashes --------------------------------------------------------------------------------------


@pytest.mark.slow
async def test_wherever_it_crashes_an_approved_invoice_is_paid_once(monkeypatch: pytest.MonkeyPatch) -> None:
    async with services(monkeypatch) as found:

        async def approved(t: Trial) -> tuple[str, str, int]:
            before = len(found.paid)
            later = (t.now + 9 * DAY).isoformat()
            given = invoice(("now", "250.00"), ("later", "9.90", later))
            call_id: str = (await ask(t.client, "process_invoice", **given))["call_id"]
            await t.advance(4 * DAY)
            said = await (await t.start("approve_invoice", {"call_id": call_id})).result()
            await t.advance(6 * DAY)
            status = await t.calls.result(call_id)
            return said, status.state, len(found.paid) - before

        ends = await crash_everywhere(mcp, approved)
        assert set(ends) == {("The invoice is approved.", "PAID", 2)}
        assert len(ends) > 40


@pytest.mark.slow
async def test_wherever_it_crashes_an_invoice_expires_to_a_decision(monkeypatch: pytest.MonkeyPatch) -> None:
    async def expired(t: Trial) -> tuple[str, bool]:
        call = await t.start("process_invoice", LARGE)
        await t.advance(6 * DAY)
        status = await call.result()
        return status.state, status.decision.approved

    async with services(monkeypatch) as found:
        assert set(await crash_everywhere(mcp, expired)) == {("EXPIRED", False)}
        assert found.paid == []


async def test_an_approval_on_the_fourth_day_counts_though_nobody_works_until_the_sixth(
    work: Work,
) -> None:
    found, t = work
    call_id = await sent(t, LARGE)
    await t.advance(4 * DAY)
    await t.calls.signal(call_id, decision, Decision(approved=True))
    await t.crash()
    await t.advance(2 * DAY)
    assert (await state(t, call_id), found.paid) == ("PAID", ["hosting", "pens"])
