"""Invoices as the invoice server has them: what is sent, what is decided, and how far each line is."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, Field

State = Literal[
    "INITIALIZING",
    "PENDING-VALIDATION",
    "PENDING-APPROVAL",
    "APPROVED",
    "REJECTED",
    "EXPIRED",
    "PAYING",
    "PAID",
    "FAILED",
    "CANCELLED",
]
LineState = Literal["WAITING", "PAID", "FAILED", "UNKNOWN"]


# --- what is sent ---------------------------------------------------------------------------------


def in_cents(amount: Decimal) -> Decimal:
    """One writing of each amount: 5 and 5.00 are the same invoice, and no service is sent 1E+2."""
    return amount.quantize(Decimal("0.01"))


def in_utc(when: datetime) -> datetime:
    """One writing of each time."""
    try:
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except OverflowError:
        raise ValueError("in UTC it is not within the years 1 to 9999") from None


Amount = Annotated[Decimal, Field(gt=0, max_digits=15, decimal_places=2), AfterValidator(in_cents)]
Due = Annotated[datetime, AfterValidator(in_utc), Field(description="Without a time zone: UTC. Past: pay at once")]


class Line(BaseModel):
    description: str = Field(min_length=1)
    amount: Amount
    due_date: Due


class Invoice(BaseModel):
    invoice_id: str = Field(min_length=1, max_length=200, description="One call per id, whoever sends it")
    customer: str = Field(min_length=1)
    lines: list[Line] = Field(min_length=1, max_length=100)

    @property
    def total(self) -> Decimal:
        return sum((line.amount for line in self.lines), Decimal(0))


# --- what is decided ------------------------------------------------------------------------------


class Policy(BaseModel):
    """What needs no person. Each invoice keeps the policy that it began under."""

    approved_below: Decimal = Decimal(100)
    patience: timedelta = timedelta(days=5)
    """How long a person may take to decide."""
    on_expiry: Literal["reject", "approve"] = "reject"


class Decision(BaseModel):
    approved: bool
    note: str = ""
    by: str = ""
    ref: str = ""
    """Which request it came with: sent again after a crash it is the same decision."""


# --- how far it is --------------------------------------------------------------------------------


class LineStatus(BaseModel):
    """`UNKNOWN` is a payment of which nobody could find out whether it happened."""

    line: int
    description: str
    amount: Decimal
    due_date: datetime
    state: LineState = "WAITING"
    payment_id: str | None = None
    problem: str | None = None


class InvoiceStatus(BaseModel):
    call_id: str
    state: State = "INITIALIZING"
    invoice_id: str = ""
    customer: str = ""
    total: Decimal = Decimal(0)
    decision: Decision | None = None
    problem: str | None = None
    lines: list[LineStatus] = []

    @classmethod
    def of(cls, call_id: str, invoice: Invoice) -> InvoiceStatus:
        lines = [
            LineStatus(line=number, description=line.description, amount=line.amount, due_date=line.due_date)
            for number, line in enumerate(invoice.lines, 1)
        ]
        return cls(
            call_id=call_id,
            invoice_id=invoice.invoice_id,
            customer=invoice.customer,
            total=invoice.total,
            lines=lines,
        )
