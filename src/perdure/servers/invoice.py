"""The invoice server: invoices that a person approves, and that are paid in days or months.

`mcp` is the one of `perdure run invoice`. One with authentication or another policy is made by `invoice_server`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import timedelta
from importlib.metadata import version
from typing import Any

import httpx
from mcp_types import ToolAnnotations

from perdure import (
    AlreadyAnswered,
    CallEnded,
    CallFailed,
    CallNotFound,
    Calls,
    CallView,
    DurableMCP,
    ToolError,
    current_step,
)
from perdure.servers.billing import Decision, InvoiceStatus, LineState, Policy
from perdure.servers.invoice_way import KEPT, InvoiceWay, decision, force, unpaid

SCOPE = "invoices:approve"
PROCESS = "process_invoice"

INSTRUCTIONS = (
    "Pays invoices. process_invoice answers at once, with a task or a handle; its id is the call_id that all other "
    "tools want. From a total of 100 on an invoice waits five days for a person: approve_invoice or reject_invoice. "
    "Each line is paid when it is due."
)
ACTS = ToolAnnotations(idempotent_hint=True, destructive_hint=True, open_world_hint=True)
READS = ToolAnnotations(read_only_hint=True, open_world_hint=False)


def invoice_server(*, policy: Policy | None = None, **options: Any) -> DurableMCP[httpx.AsyncClient]:
    """A server of invoices; `options` are `DurableMCP`'s. With `auth` or `principal` deciding needs the scope."""
    mcp = DurableMCP("invoice", instructions=INSTRUCTIONS, lifespan=open_client, handle_tools=True, **options)
    way = InvoiceWay(mcp, policy or Policy())
    mcp.tool(
        PROCESS,
        key="invoice-{invoice.invoice_id}",
        shared=True,
        handoff_after=timedelta(0),
        signals=[decision],
        retain=KEPT,
        annotations=ACTS,
    )(way.process_invoice)
    authenticates = options.get("auth") is not None or options.get("principal") is not None
    tools = InvoiceTools(mcp, way, authenticates=authenticates)
    for tool in tools.approve_invoice, tools.reject_invoice, tools.force_payment:
        mcp.tool(annotations=ACTS)(tool)
    mcp.tool(annotations=READS)(tools.invoice_status)
    return mcp


def open_client(_server: object = None) -> httpx.AsyncClient:
    # The time-out of the step counts.
    return httpx.AsyncClient(headers={"User-Agent": f"perdure-invoice/{version('perdure')}"}, timeout=None)


class InvoiceTools:
    """What clients can do. Deciding reaches everybody's invoices, so who may decide is asked here."""

    def __init__(self, mcp: DurableMCP[Any], way: InvoiceWay, *, authenticates: bool) -> None:
        self._mcp = mcp
        self._way = way
        self._authenticates = authenticates

    async def invoice_status(self, call_id: str) -> InvoiceStatus:
        """How far an invoice is: its state, who decided what, and which lines are paid."""
        return await self._status(call_id, self._mcp.calls if self._may_decide() else current_step().calls)

    async def approve_invoice(self, call_id: str, note: str = "") -> str:
        """Approve an invoice, also before it is ready for that. The first decision counts."""
        self._require_scope("Approving")
        await self._decide(call_id, approved=True, note=note)
        return "The invoice is approved."

    async def reject_invoice(self, call_id: str, reason: str = "") -> str:
        """Reject an invoice, also before it is ready for that. The first decision counts."""
        self._require_scope("Rejecting")
        await self._decide(call_id, approved=False, note=reason)
        return "The invoice is rejected."

    async def force_payment(self, call_id: str, line: int) -> str:
        """Pay a line of an approved invoice now, although it is not due. Lines are counted from 1."""
        self._require_scope("Forcing a payment")
        status = await self._status(call_id, self._mcp.calls)
        if not 1 <= line <= len(status.lines):
            raise ToolError(f"There is no line {line}: this invoice has the lines 1 to {len(status.lines)}.")
        if status.state != "PAYING":
            raise ToolError(f"No payment can be forced: this invoice is {status.state}.")
        if (state := status.lines[line - 1].state) != "WAITING":
            raise ToolError(f"Too late: line {line} is {state}.")
        if (state := await self._forced(call_id, line)) != "PAID":
            raise ToolError(f"Too late: line {line} is {state}.")
        return f"Line {line} is paid now."

    async def _forced(self, call_id: str, line: int) -> LineState:
        """What becomes of a line that is shown as waiting: the invoice hears of its end a little after that."""
        paying = await self._mcp.calls.lookup(self._way.pay_line.name, f"{call_id}-{line}")
        if paying is None:
            return "FAILED"  # of what began only that lets go of its key
        try:
            await self._mcp.calls.signal(paying.id, force, True)
        except AlreadyAnswered:
            return "PAID"  # by whoever was first
        except CallEnded:
            return await self._ended(paying.id)
        return "PAID"

    async def _ended(self, paying_id: str) -> LineState:
        try:
            await self._mcp.calls.result(paying_id)
        except CallFailed as failed:
            return unpaid(failed)
        return "PAID"

    async def _status(self, call_id: str, calls: Calls) -> InvoiceStatus:
        try:
            return status_of(await calls.get(call_id))
        except CallNotFound as unknown:
            raise ToolError(f"There is no invoice {call_id}.") from unknown

    # --- deciding ---

    async def _decide(self, call_id: str, *, approved: bool, note: str) -> None:
        await self._status(call_id, self._mcp.calls)  # or it is no invoice
        here = current_step()
        by = "" if here.principal is None else here.principal.subject
        verdict = Decision(approved=approved, note=note, by=by, ref=here.idempotency_key)
        try:
            await self._mcp.calls.signal(call_id, decision, verdict)
        except (AlreadyAnswered, CallEnded) as late:
            status = await self._decided(call_id)
            if status.decision == verdict:
                return  # it was sent in a life of this tool that could not say so any more
            raise ToolError(f"Too late: this invoice {_told(status.decision)}; it is {status.state}.") from late

    async def _decided(self, call_id: str) -> InvoiceStatus:
        """Once it shows its decision, or has ended."""
        status = await self._status(call_id, self._mcp.calls)
        with suppress(TimeoutError):
            async with asyncio.timeout(SOON.total_seconds()):
                async for view in self._mcp.calls.watch(call_id):
                    status = status_of(view)
                    if status.decision is not None:
                        break
        return status

    def _require_scope(self, what: str) -> None:
        if not self._may_decide():
            raise ToolError(f"{what} needs the scope {SCOPE}, which this request does not have.")

    def _may_decide(self) -> bool:
        who = current_step().principal
        return not self._authenticates or (who is not None and SCOPE in who.scopes)


SOON = timedelta(seconds=5)
"""An invoice shows its decision within milliseconds, unless nobody runs it now."""


def _told(taken: Decision | None) -> str:
    if taken is None:  # it ended without one, or nobody runs it who could show it
        return "takes no decision any more"
    return f"has been {'approved' if taken.approved else 'rejected'} already"


def status_of(view: CallView) -> InvoiceStatus:
    """How far the invoice is whose call this is; `ToolError` if it is none."""
    if view.tool != PROCESS:
        raise ToolError(f"Call {view.id} is no invoice, but of {view.tool}.")
    if view.status_data is None:
        status = InvoiceStatus(call_id=view.id)
    else:
        status = InvoiceStatus.model_validate_json(view.status_data)
    match view.status:
        case "failed":
            status.state, status.problem = "FAILED", status.problem or view.error
        case "cancelled":
            status.state, status.problem = "CANCELLED", view.error
        case _:
            pass
    return status


mcp = invoice_server()
