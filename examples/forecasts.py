"""Forecasts of a service that is down now and then: steps that try again, and a client that all of them share."""

from __future__ import annotations

import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import httpx

from perdure import DurableContext, DurableMCP, Retry, ToolError, TryAgain, step


@dataclass
class App:
    http: httpx.AsyncClient


@asynccontextmanager
async def open_app(_: object) -> AsyncGenerator[App]:
    async with httpx.AsyncClient(headers={"User-Agent": "forecasts/1.0"}) as http:
        yield App(http)


mcp = DurableMCP("forecasts", lifespan=open_app)


@step(timeout=timedelta(seconds=30), retry=Retry(attempts=None, ceiling=timedelta(minutes=1)))
async def read(path: str) -> dict[str, Any]:
    # A setting is read inside the step. Passed to it, it would be recorded, and a call that waits while the
    # service moves could not go on.
    service = os.environ.get("FORECASTS_URL", "https://api.weather.gov")
    reply = await mcp.state.http.get(service + path)
    if reply.status_code == 404:
        raise ToolError("The weather service does not know this place.")  # is not tried again, and shown to the model
    if reply.status_code == 429:
        raise TryAgain("busy", after=timedelta(seconds=float(reply.headers.get("Retry-After", "1"))))
    return reply.raise_for_status().json()


@step
def render(periods: list[dict[str, Any]]) -> str:  # not async, so it runs in a thread; awaited all the same
    return "\n".join(f"{period['name']}: {period['detailedForecast']}" for period in periods[:5])


@mcp.tool(key="forecast-{latitude}-{longitude}", shared=True, reuse=timedelta(minutes=10))
async def get_forecast(latitude: float, longitude: float, ctx: DurableContext) -> str:
    """The next five periods of the forecast for a place."""
    point = await read(f"/points/{latitude},{longitude}")
    office, x, y = (point["properties"][name] for name in ("gridId", "gridX", "gridY"))
    forecast = await read(f"/gridpoints/{office}/{x},{y}/forecast")
    return await render(forecast["properties"]["periods"])


if __name__ == "__main__":
    mcp.run()
