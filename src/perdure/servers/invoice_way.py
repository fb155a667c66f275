"""The way of an invoice: it is validated, decided upon, and each of its lines is paid once, when it is due."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from perdure import AlreadyAnswered, CallFailed, DurableContext, DurableMCP, Signal, ToolError, step
from perdure.servers.billing import Decision, Invoice, InvoiceStatus, LineState, LineStatus, Policy, State
from perdure.servers.erp import validate
from perdure.servers.payments import Order, Receipt, pay

POLICY = "policy"
"""Who decides when no person does."""
KEPT = timedelta(days=10 * 365)
"""For so long an invoice that is sent again is the one that was paid."""

decision = Signal("decision", Decision, once=True)
force = Signal("force", bool, once=True)


class InvoiceWay:
    """`process_invoice` is the call that clients know; the job `pay_line` is its child, one for each line."""

    def __init__(self, mcp: DurableMCP[Any], policy: Policy) -> None:
        self._mcp = mcp
        self._policy = policy
        self.pay_line = mcp.job("pay_line", key="{call_id}-{order.line}", shared=True, signals=[force], retain=KEPT)(
            self._pay_line
        )

    async def process_invoice(self, ctx: DurableContext, invoice: Invoice) -> InvoiceStatus:
        """Have an invoice validated, approved and paid. Sent again it is the same call."""
        # Fails only if the invoice is not valid, of which nothing was paid: then it may be sent again.
        case = Case(ctx, invoice)
        hearing = asyncio.create_task(case.hear())
        try:
            return await self._go(case, invoice)
        finally:
            hearing.cancel()

    async def _go(self, case: Case, invoice: Invoice) -> InvoiceStatus:
        await case.reach("PENDING-VALIDATION")
        await case.be_validated(invoice)
        decided = await self._decided(case)
        if not decided.approved:
            return await case.reach("EXPIRED" if decided.by == POLICY else "REJECTED")
        await case.reach("APPROVED")
        await case.reach("PAYING")
        await asyncio.gather(*(self._paid(case, line) for line in case.status.lines))
        return await case.reach("PAID" if all(line.state == "PAID" for line in case.status.lines) else "FAILED")

    # --- deciding ---

    async def _decided(self, case: Case) -> Decision:
        """The decision that came first: a person's, or the policy's where that has one and no person was faster."""
        policy = await self.read_policy()
        if case.status.total < policy.approved_below:
            await self.decide_by_policy(case.status.call_id, True, f"The total is under {policy.approved_below}.")
        else:
            await case.reach("PENDING-APPROVAL")
            with suppress(TimeoutError):
                return await case.decided(policy.patience)
            await self.decide_by_policy(case.status.call_id, policy.on_expiry == "approve", "Nobody decided in time.")
        return await case.decided()

    @step(name="read_policy")
    async def read_policy(self) -> Policy:
        """Recorded: an invoice ends under the policy that it began under, whatever is deployed meanwhile."""
        return self._policy

    @step(name="decide_by_policy")
    async def decide_by_policy(self, call_id: str, approved: bool, note: str) -> None:
        """Sent as a person's decision is, so that of all of them only one counts."""
        with suppress(AlreadyAnswered):
            await self._mcp.calls.signal(call_id, decision, Decision(approved=approved, note=note, by=POLICY))

    # --- paying ---

    async def _paid(self, case: Case, line: LineStatus) -> None:
        try:
            receipt = await self.pay_line(case.status.call_id, case.order(line), line.due_date)
        except CallFailed as failed:
            line.state, line.problem = unpaid(failed), failed.message
        else:
            line.state, line.payment_id = "PAID", receipt.payment_id
        await case.reach("PAYING")  # with one line more that is known

    async def _pay_line(self, ctx: DurableContext, call_id: str, order: Order, due: datetime) -> Receipt:
        if (left := due - ctx.now()) > timedelta(0):
            await ctx.set_status(f"is due {due.isoformat()}")
            with suppress(TimeoutError):
                await ctx.receive(force, timeout=left)
        await ctx.set_status("is paid")
        return await pay(order)


def unpaid(failed: CallFailed) -> LineState:
    """How the line is whose job ended so."""
    return "UNKNOWN" if failed.type == "OutcomeUnknown" else "FAILED"


class Case:
    """One invoice on its way: where it is, which is what its view shows."""

    def __init__(self, ctx: DurableContext, invoice: Invoice) -> None:
        self.status = InvoiceStatus.of(ctx.call_id, invoice)
        self._ctx = ctx
        self._heard = asyncio.Event()

    async def hear(self) -> None:
        """Take the decision whenever it comes, and show it at once."""
        self.status.decision = await self._ctx.receive(decision)
        self._heard.set()
        await self.reach(self.status.state)

    async def reach(self, state: State) -> InvoiceStatus:
        self.status.state = state
        await self._ctx.set_status(state, self.status)
        return self.status

    async def be_validated(self, invoice: Invoice) -> None:
        try:
            await validate(invoice)
        except ToolError as invalid:
            self.status.problem = str(invalid)
            await self.reach("FAILED")
            raise

    async def decided(self, within: timedelta | None = None) -> Decision:
        """Raises `TimeoutError`; a decision that came before it was waited for counts."""
        async with asyncio.timeout(None if within is None else within.total_seconds()):
            await self._heard.wait()
        assert self.status.decision is not None
        return self.status.decision

    def order(self, line: LineStatus) -> Order:
        return Order(
            invoice_id=self.status.invoice_id,
            line=line.line,
            customer=self.status.customer,
            description=line.description,
            amount=line.amount,
        )
