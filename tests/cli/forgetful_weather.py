"""A server that breaks the demo's promise: its tool is one step, so what it did before a crash it does again."""

from __future__ import annotations

import asyncio

from perdure import DurableMCP, Retry
from perdure.servers import nws, weather

mcp = DurableMCP("forgetful")


@mcp.tool(key="forecast-{latitude}-{longitude}", shared=True, rerun=True, retry=Retry(attempts=None))
async def get_forecast(latitude: float, longitude: float) -> str:
    async with nws.open_client() as http:
        point = await nws.get(http, f"/points/{latitude},{longitude}", nws.Point)
        await asyncio.sleep(4)
        forecast = await nws.get(http, nws.own_path(point.forecast), nws.Forecast)
    return weather.render_forecast(forecast.periods[:5])
