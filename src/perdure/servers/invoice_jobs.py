"""The way of an invoice, as jobs: it is validated, decided upon, and each of its lines is paid once, when it is due."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

from perdure import AlreadyAnswered, CallFailed, DurableContext, DurableMCP, Signal, ToolError, step
from perdure.servers.billing import Decision, Invoice, InvoiceStatus, LineStatus, Policy, State
from perdure.servers.erp import validate
from perdure.servers.payments import Order, Receipt, pay

POLICY = "policy"
"""Who decides when no person does."""
KEPT = timedelta(days=10 * 365)
"""For so long an invoice that is sent again is the one that was paid."""

decision = Signal("decision", Decision, once=True)
force = Signal("force", bool, once=True)


class InvoiceJobs:
    """`invoice` is the call that clients know; `pay_line` is its child, one for each line."""

    def __init__(self, mcp: DurableMCP[Any], policy: Policy) -> None:
        self._mcp = mcp
        self._policy = policy
        self.pay_line = mcp.job("pay_line", key="{call_id}-{order.line}", shared=True, signals=[force], retain=KEPT)(
            self._pay_line
        )
        self.invoice = mcp.job(
            "invoice", key="invoice-{invoice.invoice_id}", shared=True, signals=[decision], retain=KEPT
        )(self._invoice)

    async def _invoice(self, ctx: DurableContext, invoice: Invoice) -> InvoiceStatus:
        """Fails only if the invoice is not valid, of which nothing was paid: then it may be sent again."""
        way = Way(ctx, invoice)
        hearing = asyncio.create_task(way.hear())
        try:
            return await self._go(way, invoice)
        finally:
            hearing.cancel()

    async def _go(self, way: Way, invoice: Invoice) -> InvoiceStatus:
        await way.reach("PENDING-VALIDATION")
        await way.be_validated(invoice)
        decided = await self._decided(way)
        if not decided.approved:
            return await way.reach("EXPIRED" if decided.by == POLICY else "REJECTED")
        await way.reach("APPROVED")
        await way.reach("PAYING")
        await asyncio.gather(*(self._paid(way, line) for line in way.status.lines))
        return await way.reach("PAID" if all(line.state == "PAID" for line in way.status.lines) else "FAILED")

    # --- deciding ---

    async def _decided(self, way: Way) -> Decision:
        """The decision that came first: a person's, or the policy's where that has one and no person was faster."""
        policy = await self.read_policy()
        if way.status.total < policy.approved_below:
            await self.decide_by_policy(way.status.call_id, True, f"The total is under {policy.approved_below}.")
        else:
            await way.reach("PENDING-APPROVAL")
            with suppress(TimeoutError):
                return await way.decided(policy.patience)
            await self.decide_by_policy(way.status.call_id, policy.on_expiry == "approve", "Nobody decided in time.")
        return await way.decided()

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

    async def _paid(self, way: Way, line: LineStatus) -> None:
        try:
            receipt = await self.pay_line(way.status.call_id, way.order(line), line.due_date)
        except CallFailed as failed:
            line.state = "UNKNOWN" if failed.type == "OutcomeUnknown" else "FAILED"
            line.problem = failed.message
        else:
            line.state, line.payment_id = "PAID", receipt.payment_id
        await way.reach("PAYING")  # with one line more that is known

    async def _pay_line(self, ctx: DurableContext, call_id: str, order: Order, due: datetime) -> Receipt:
        if (left := due - ctx.now()) > timedelta(0):
            await ctx.set_status(f"is due {due.isoformat()}")
            with suppress(TimeoutError):
                await ctx.receive(force, timeout=left)
        await ctx.set_status("is paid")
        return await pay(order)


class Way:
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
