"""Stand-ins for the ERP system and the payment service of the invoice server, at one address.

python -m perdure.servers.standins.invoice [--port N] [--fault /payments=503,cut …] [--seed N]
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any
from urllib.parse import unquote

from perdure.servers.standins.faults import Fault, Schedule
from perdure.servers.standins.program import run_standin
from perdure.servers.standins.standin import Reply, Request, Standin

PORT = 8750
LIMIT = Decimal(10_000)
"""The most that is paid at once."""
STRANGER = "nobody"
"""The customer that the ERP does not have."""


@dataclass
class Bank:
    """It pays whatever it is asked to, also under a key that it has paid under: paying twice would be seen."""

    payments: list[dict[str, Any]] = field(default_factory=list[dict[str, Any]])

    def answer(self, asked: Request, _url: str) -> Reply:
        match asked.method, asked.path.strip("/").split("/"):
            case "POST", ["erp", "validations"]:
                return self._validate(json.loads(asked.content))
            case "POST", ["payments"]:
                return self._pay(asked.headers.get("idempotency-key", ""), json.loads(asked.content))
            case "GET", ["payments", key]:
                found = next((payment for payment in self.payments if payment["key"] == unquote(key)), None)
                return _problem(404, "No such payment.") if found is None else Reply(found)
            case _:
                return _problem(404, "Not Found")

    def _validate(self, invoice: dict[str, Any]) -> Reply:
        problems = [f"there is no customer {STRANGER}"] if invoice["customer"] == STRANGER else []
        return Reply({"valid": not problems, "problems": problems})

    def _pay(self, key: str, order: dict[str, Any]) -> Reply:
        if Decimal(order["amount"]) > LIMIT:
            return _problem(402, f"{order['description']}: more than {LIMIT}.")
        payment = {"payment_id": f"payment-{len(self.payments) + 1}", "key": key, **order}
        self.payments.append(payment)
        return Reply(payment)


def _problem(status: int, detail: str) -> Reply:
    return Reply({"status": status, "detail": detail}, status, media_type="application/problem+json")


def invoice_standin(faults: Iterable[tuple[str, Iterable[Fault | None]]] = (), bank: Bank | None = None) -> Standin:
    bank = bank or Bank()
    return Standin(bank.answer, Schedule(faults), lambda: bank.payments)


if __name__ == "__main__":
    run_standin("Stand-ins for an ERP system and a payment service, on 127.0.0.1.", invoice_standin, port=PORT)
