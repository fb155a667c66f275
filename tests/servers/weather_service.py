"""A stand-in weather service in the test's own loop, where the weather server will find it."""

from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import pytest

from perdure.servers import nws
from perdure.servers.standins.faults import Fault
from perdure.servers.standins.standin import Standin
from perdure.servers.standins.weather import weather_standin

KANSAS = "/points/39.7456,-97.0892"
FORECAST = "/gridpoints/TOP/32,81/forecast"


@asynccontextmanager
async def weather_service(monkeypatch: pytest.MonkeyPatch, **faults: list[Fault | None]) -> AsyncGenerator[Standin]:
    """`points=[…]`, `gridpoints=[…]`, `alerts=[…]`: what the requests under these paths meet."""
    standin = weather_standin([(f"/{prefix}", each) for prefix, each in faults.items()])
    async with standin.listening():
        monkeypatch.setenv(nws.SETTING, standin.url)
        yield standin
