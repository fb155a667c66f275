"""The stand-ins for ERP and payments in the test's own loop, and invoices for them."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import chain, repeat
from typing import Any

import pytest

from perdure.servers import erp, payments
from perdure.servers.standins.faults import Fault
from perdure.servers.standins.invoice import Bank, invoice_standin
from perdure.servers.standins.standin import Standin

YESTERDAY = (datetime.now(UTC) - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")


class Services:
    def __init__(self, standin: Standin, bank: Bank) -> None:
        self.standin = standin
        self._bank = bank

    @property
    def settings(self) -> dict[str, str]:
        return {erp.SETTING: f"{self.standin.url}/erp", payments.SETTING: f"{self.standin.url}/payments"}

    @property
    def paid(self) -> list[str]:
        """What was paid, once for each payment that was made."""
        return sorted(payment["description"] for payment in self._bank.payments)

    @property
    def keys(self) -> list[str]:
        return [payment["key"] for payment in self._bank.payments]

    @property
    def validations(self) -> int:
        return self.standin.counts["/erp/validations"].received

    @property
    def payments_asked(self) -> int:
        return self.standin.counts["/payments"].received


@asynccontextmanager
async def services(
    monkeypatch: pytest.MonkeyPatch,
    *,
    erp: Iterable[Fault | None] = (),
    payments: Iterable[Fault | None] = (),
    lookups: Iterable[Fault | None] = (),
) -> AsyncGenerator[Services]:
    """What the requests to each service meet, one after the other; `lookups` ask what was paid."""
    bank = Bank()
    faults = [("/erp", erp), ("/payments/", chain(lookups, repeat(None))), ("/payments", payments)]
    standin = invoice_standin(faults, bank)
    async with standin.listening():
        found = Services(standin, bank)
        for name, value in found.settings.items():
            monkeypatch.setenv(name, value)
        yield found


def invoice(*lines: tuple[str, str] | tuple[str, str, str], customer: str = "ann", number: str = "7") -> dict[str, Any]:
    """Lines are a description, an amount, and when it is due: else yesterday."""
    each = [(line if len(line) == 3 else (*line, YESTERDAY)) for line in lines]
    return {
        "invoice": {
            "invoice_id": number,
            "customer": customer,
            "lines": [{"description": what, "amount": amount, "due_date": due} for what, amount, due in each],
        }
    }
