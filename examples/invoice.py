"""An invoice: validated, approved by a person within five days, and each line paid once, on the day when it is due."""

from __future__ import annotations

import asyncio
import os
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
    due: datetime


class Invoice(BaseModel):
    number: str
    customer: str
    lines: list[Line]


class Decision(BaseModel):
    approved: bool
    note: str = ""


class Receipt(BaseModel):
    payment: str


class Outcome(BaseModel):
    state: Literal["paid", "failed", "rejected", "expired"]
    paid: list[str] = []
    unpaid: list[str] = []


decision = Signal("decision", Decision, once=True)
pay_now = Signal("pay_now", bool)


def bank() -> str:
    return os.environ["BANK_URL"]


# --- steps ----------------------------------------------------------------------------------------


@step(retry=Retry(ceiling=timedelta(seconds=30)))
async def check_customer(customer: str) -> None:
    async with httpx.AsyncClient() as http:
        reply = await http.get(f"{bank()}/customers/{customer}")
    if reply.status_code == 404:
        raise ToolError(f"There is no customer {customer!r}.")
    reply.raise_for_status()


async def find_payment(line: Line) -> Receipt | None:
    """Was it paid under this key? Asked before each further attempt: nothing is paid twice."""
    async with httpx.AsyncClient() as http:
        reply = await http.get(f"{bank()}/payments/{current_step().idempotency_key}")
    return None if reply.status_code == 404 else Receipt.model_validate(reply.raise_for_status().json())


@step(reconcile=find_payment, timeout=timedelta(seconds=30))
async def pay(line: Line) -> Receipt:
    async with httpx.AsyncClient() as http:
        reply = await http.put(f"{bank()}/payments/{current_step().idempotency_key}", json=line.model_dump(mode="json"))
    if reply.status_code == 402:
        raise ToolError(f"{line.description}: not enough money")
    return Receipt.model_validate(reply.raise_for_status().json())


# --- calls ----------------------------------------------------------------------------------------


@mcp.job(signals=[pay_now])
async def pay_line(ctx: DurableContext, line: Line) -> Receipt:
    with suppress(TimeoutError):  # then it is due
        await ctx.receive(pay_now, timeout=max(line.due - ctx.now(), timedelta(0)))
    return await pay(line)


@mcp.tool(key="invoice-{invoice.number}", shared=True, signals=[decision])
async def process_invoice(invoice: Invoice, ctx: DurableContext) -> Outcome:
    """Have an invoice approved and paid."""
    await ctx.set_status("is checked")
    await check_customer(invoice.customer)
    if sum(line.amount for line in invoice.lines) >= 100:
        await ctx.set_status("waits for approval")
        try:
            verdict = await ctx.receive(decision, timeout=timedelta(days=5))
        except TimeoutError:
            return Outcome(state="expired")
        if not verdict.approved:
            return Outcome(state="rejected")
    await ctx.set_status("is paid")
    ends = await asyncio.gather(*(pay_line(line) for line in invoice.lines), return_exceptions=True)
    paid = [end.payment for end in ends if isinstance(end, Receipt)]
    unpaid = [end.message for end in ends if isinstance(end, CallFailed)]
    return Outcome(state="failed" if unpaid else "paid", paid=paid, unpaid=unpaid)


@mcp.tool()
async def decide(number: str, approved: bool, note: str = "") -> str:
    """Approve or reject an invoice that waits for it."""
    # `mcp.calls` reaches everybody's calls, so who may do this is checked here.
    who = current_step().principal
    if who is not None and "invoices:decide" not in who.scopes:
        raise ToolError("To decide needs the scope invoices:decide.")
    call = await mcp.calls.lookup("process_invoice", f"invoice-{number}")
    if call is None:
        raise ToolError(f"There is no invoice {number}.")
    try:
        await mcp.calls.signal(call.id, decision, Decision(approved=approved, note=note))
    except (AlreadyAnswered, CallEnded) as late:
        raise ToolError(f"Too late: this invoice {late.view.text}.") from late
    return f"Invoice {number} is {'approved' if approved else 'rejected'}."


if __name__ == "__main__":
    mcp.run()
