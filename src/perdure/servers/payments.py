"""The service that pays: where it is, how it is asked to pay and what was paid, what its answers mean."""

from __future__ import annotations

import os
from datetime import timedelta
from decimal import Decimal
from typing import Any
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from perdure import Retry, ToolError, TryAgain, current_step, step
from perdure.servers.replies import overloaded

SERVICE = "http://127.0.0.1:8750/payments"
"""The stand-in's."""
SETTING = "PERDURE_PAYMENTS_URL"


class Order(BaseModel):
    """What is paid: one line of an invoice."""

    invoice_id: str
    line: int
    customer: str
    description: str
    amount: Decimal


class Receipt(BaseModel):
    payment_id: str


async def find_payment(order: Order) -> Receipt | None:
    """What was paid under this step's key, if anything was."""
    reply = await current_step().state.get(f"{address()}/{quote(current_step().idempotency_key, safe='')}")
    return None if reply.status_code == 404 else _receipt(reply)


A_MONTH = Retry(attempts=10_000, ceiling=timedelta(minutes=5))
"""Not without a bound: `find_payment` is asked as often, and with none it would be asked a few times only."""


@step(reconcile=find_payment, timeout=timedelta(seconds=30), retry=A_MONTH)
async def pay(order: Order) -> Receipt:
    """Pay once. Raises `ToolError` if the service refuses to, and `OutcomeUnknown` if it will not say what it did."""
    key = current_step().idempotency_key
    reply = await current_step().state.post(
        address(), json=order.model_dump(mode="json"), headers={"Idempotency-Key": key}
    )
    return _receipt(reply)


def _receipt(reply: httpx.Response) -> Receipt:
    if busy := overloaded("The payment service", reply):
        raise busy
    if not reply.is_success:
        raise ToolError(f"The payment service refused ({reply.status_code}). {_detail(reply)}".rstrip())
    try:
        return Receipt.model_validate_json(reply.content)
    except ValidationError:  # it may have been paid: find_payment will tell
        raise TryAgain("The payment service answered with something else than a receipt.") from None


def address() -> str:
    """Where it is now: read by each request, recorded by none."""
    return (os.environ.get(SETTING) or SERVICE).rstrip("/")


def _detail(reply: httpx.Response) -> str:
    try:
        problem: Any = reply.json()  # RFC 9457
        return str(problem["detail"])[:500]
    except (ValueError, KeyError, TypeError):
        return ""
