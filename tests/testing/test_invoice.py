"""The tests that the author of the invoice server would write."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from perdure.testing import Trial, crash_everywhere, trial
from tests.testing.invoice import Decision, Invoice, Line, Receipt, decision, mcp, pay, validate

LATER = datetime.now(UTC) + timedelta(days=9)
INVOICE: dict[str, Any] = {
    "invoice": {
        "invoice_id": "7",
        "customer": "x",
        "lines": [{"description": "hosting", "amount": "250.00", "due_date": LATER.isoformat()}],
    }
}


async def approved(t: Trial) -> str:
    async def ok(line: Line) -> Receipt:
        return Receipt(payment_id="p")

    async def not_yet(line: Line) -> Receipt | None:
        return None

    async def valid(invoice: Invoice) -> None: ...

    paid = t.stub(pay, ok, reconcile=not_yet)
    t.stub(validate, valid)
    call = await t.start("process_invoice", INVOICE)
    await t.advance(timedelta(days=4))
    await t.calls.signal(call.id, decision, Decision(approved=True))
    await t.advance(timedelta(days=6))
    outcome = await call.result()
    assert len(set(paid.idempotency_keys)) == 1
    return outcome.state


async def test_an_invoice_is_paid_under_one_key_wherever_it_crashes() -> None:
    assert set(await crash_everywhere(mcp, approved)) == {"PAID"}


async def test_it_expires() -> None:
    async with trial(mcp) as t:

        async def valid(invoice: Invoice) -> None: ...

        t.stub(validate, valid)
        call = await t.start("process_invoice", INVOICE)
        await t.advance(timedelta(days=5))
        assert (await call.result()).state == "EXPIRED"
