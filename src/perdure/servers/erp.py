"""The ERP system that invoices are validated against: where it is, what it is asked, what its answers mean."""

from __future__ import annotations

import os
from datetime import timedelta

from pydantic import BaseModel, ValidationError

from perdure import Retry, ToolError, TryAgain, current_step, step
from perdure.servers.billing import Invoice
from perdure.servers.replies import overloaded

SERVICE = "http://127.0.0.1:8750/erp"
"""The stand-in's."""
SETTING = "PERDURE_ERP_URL"


class Validation(BaseModel):
    """`POST /validations` with an invoice."""

    valid: bool
    problems: list[str] = []


# The ERP is down for the night now and then; the invoice is still there in the morning.
@step(timeout=timedelta(seconds=30), retry=Retry(attempts=None, ceiling=timedelta(minutes=5)))
async def validate(invoice: Invoice) -> None:
    """Raises `ToolError` if the ERP does not take the invoice."""
    reply = await current_step().state.post(f"{address()}/validations", json=invoice.model_dump(mode="json"))
    if busy := overloaded("The ERP system", reply):
        raise busy
    if not reply.is_success:
        raise ToolError(f"The ERP system refused the request ({reply.status_code}).")
    try:
        validation = Validation.model_validate_json(reply.content)
    except ValidationError:  # a maintenance page, half an answer
        raise TryAgain("The ERP system answered with something else than a validation.") from None
    if not validation.valid:
        raise ToolError(
            f"The ERP system does not take this invoice: {'; '.join(validation.problems) or 'no reason given'}"
        )


def address() -> str:
    """Where it is now: read by each request, recorded by none."""
    return (os.environ.get(SETTING) or SERVICE).rstrip("/")
