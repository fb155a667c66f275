"""A server as users write them: an approval within five days, then one payment per line when it is due."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Literal

import httpx
from pydantic import BaseModel

from perdure import (
    AlreadyAnswered,
    CallEnded,
    CallFailed,
    DurableContext,
    DurableMCP,
    Retry,
    Signal,
    ToolError,
    current_step,
    step,
)

mcp = DurableMCP("invoice")


class Line(BaseModel):
    description: str
    amount: Decimal
    due_date: datetime


class Invoice(BaseModel):
    invoice_id: str
    customer: str
    lines: list[Line]


class Decision(BaseModel):
    approved: bool
    note: str = ""


class Receipt(BaseModel):
    payment_id: str


class Outcome(BaseModel):
    state: Literal["PAID", "FAILED", "REJECTED", "EXPIRED"]
    paid: list[str] = []
    unpaid: list[str] = []


decision = Signal("decision", Decision, once=True)
force = Signal("force", bool)


@step(retry=Retry(first=timedelta(seconds=1), ceiling=timedelta(seconds=30)))
async def validate(invoice: Invoice) -> None:
    async with httpx.AsyncClient() as http:
        (await http.get(f"https://customers.example/{invoice.customer}")).raise_for_status()


async def find_payment(line: Line) -> Receipt | None:
    async with httpx.AsyncClient() as http:
        reply = await http.get(f"https://pay.example/by-key/{current_step().idempotency_key}")
        return None if reply.status_code == 404 else Receipt.model_validate(reply.json())


@step(reconcile=find_payment, retry=Retry(only_on=(httpx.ConnectError,)))
async def pay(line: Line) -> Receipt:
    async with httpx.AsyncClient() as http:
        reply = await http.post(
            "https://pay.example",
            json=line.model_dump(mode="json"),
            headers={"Idempotency-Key": current_step().idempotency_key},
        )
        return Receipt.model_validate(reply.json())


@mcp.job(signals=[force])
async def pay_line(ctx: DurableContext, line: Line) -> Receipt:
    with suppress(TimeoutError):
        await ctx.receive(force, timeout=line.due_date - ctx.now())
    return await pay(line)


@mcp.tool(key="invoice-{invoice.invoice_id}", shared=True, signals=[decision])
async def process_invoice(invoice: Invoice, ctx: DurableContext) -> Outcome:
    await ctx.set_status("PENDING-VALIDATION")
    await validate(invoice)
    if sum(line.amount for line in invoice.lines) >= 100:
        await ctx.set_status("PENDING-APPROVAL")
        try:
            verdict = await ctx.receive(decision, timeout=timedelta(days=5))
        except TimeoutError:
            return Outcome(state="EXPIRED")
        if not verdict.approved:
            return Outcome(state="REJECTED")
    await ctx.set_status("PAYING")
    ends = await asyncio.gather(*(pay_line(line) for line in invoice.lines), return_exceptions=True)
    paid = [end.payment_id for end in ends if isinstance(end, Receipt)]
    unpaid = [end.message for end in ends if isinstance(end, CallFailed)]
    return Outcome(state="FAILED" if unpaid else "PAID", paid=paid, unpaid=unpaid)


@mcp.tool()
async def approve_invoice(call_id: str, note: str = "") -> str:
    who = current_step().principal
    if who is None or "invoices:approve" not in who.scopes:
        raise ToolError("Approving needs the scope invoices:approve.")
    try:
        await mcp.calls.signal(call_id, decision, Decision(approved=True, note=note))
    except (AlreadyAnswered, CallEnded) as exc:
        raise ToolError(f"Too late: this invoice is {exc.view.text}.") from exc
    return "Approved."


@mcp.tool()
async def invoice_status(call_id: str) -> str:
    return (await current_step().calls.get(call_id)).text
