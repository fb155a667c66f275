"""The weather server: alerts and forecasts of the National Weather Service, for as long as that takes."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import timedelta
from typing import Annotated

from mcp_types import ToolAnnotations
from pydantic import AfterValidator, Field

from perdure import DurableContext, DurableMCP, Retry, step
from perdure.servers import nws

mcp = DurableMCP(
    "weather",
    instructions="Weather alerts and forecasts for the United States and their territories.",
    lifespan=nws.open_client,
)

READ_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=True)
REUSE = timedelta(minutes=10)


# --- places ---------------------------------------------------------------------------------------


def known_state(code: str) -> str:
    if (upper := code.strip().upper()) not in nws.STATES:
        raise ValueError(f"{code!r} is not the code of a US state or territory")
    return upper


def four_decimals(degrees: float) -> float:
    """As precise as the service is (11 m), so that one place has one key; -0.0 becomes 0.0."""
    return round(degrees, 4) + 0.0


def point(latitude: float, longitude: float) -> str:
    """As the service writes a place: without trailing zeros, which it would redirect."""
    return ",".join(f"{degrees:.4f}".rstrip("0").rstrip(".") for degrees in (latitude, longitude))


State = Annotated[
    str, AfterValidator(known_state), Field(description="Two-letter code of a US state or territory: CA, NY, PR …")
]
Latitude = Annotated[
    float, Field(ge=-90, le=90, allow_inf_nan=False, description="In degrees north"), AfterValidator(four_decimals)
]
Longitude = Annotated[
    float,
    Field(ge=-180, le=180, allow_inf_nan=False, description="In degrees east; negative in America"),
    AfterValidator(four_decimals),
]


# --- steps ----------------------------------------------------------------------------------------

# The service is down now and then; whoever asked for its weather still wants it when it is back.
patient = step(timeout=timedelta(seconds=30), retry=Retry(attempts=None, ceiling=timedelta(minutes=1)))


@patient
async def read_alerts(state: str) -> list[nws.Alert]:
    alerts = await nws.get(mcp.state, f"/alerts/active/area/{state}", nws.Alerts)
    return [feature.properties for feature in alerts.features]


@patient
async def find_forecast(latitude: float, longitude: float) -> str:
    """Which forecast covers the place: its path, to be read wherever the service is then."""
    found = await nws.get(mcp.state, f"/points/{point(latitude, longitude)}", nws.Point)
    return nws.own_path(found.forecast)


@patient
async def read_forecast(path: str) -> list[nws.Period]:
    forecast = await nws.get(mcp.state, path, nws.Forecast)
    return forecast.periods[:5]


# --- tools ----------------------------------------------------------------------------------------


@mcp.tool(key="alerts-{state}", shared=True, reuse=REUSE, annotations=READ_ONLY)
async def get_alerts(state: State, ctx: DurableContext) -> str:
    """Active weather alerts for a US state or territory."""
    return render_alerts(state, await read_alerts(state))


@mcp.tool(key="forecast-{latitude}-{longitude}", shared=True, reuse=REUSE, annotations=READ_ONLY)
async def get_forecast(latitude: Latitude, longitude: Longitude, ctx: DurableContext) -> str:
    """Weather forecast for a place in the United States: the next five periods of about twelve hours."""
    path = await find_forecast(latitude, longitude)
    # A pause that outlives the process, as a stand-in for all that takes long: `perdure demo` kills the server in it.
    await ctx.sleep(timedelta(seconds=10))
    return render_forecast(await read_forecast(path))


# --- answers --------------------------------------------------------------------------------------


def render_alerts(state: str, alerts: list[nws.Alert]) -> str:
    return _sections(map(_alert, alerts)) or f"There are no active alerts for {state}."


def render_forecast(periods: list[nws.Period]) -> str:
    return _sections(map(_period, periods)) or "The weather service has no forecast for this place now."


def _alert(alert: nws.Alert) -> str:
    return (
        f"Event: {alert.event}\n"
        f"Area: {alert.areaDesc}\n"
        f"Severity: {alert.severity}\n"
        f"Description: {alert.description or 'none given'}\n"
        f"Instruction: {alert.instruction or 'none given'}"
    )


def _period(period: nws.Period) -> str:
    temperature = "unknown" if period.temperature is None else f"{period.temperature}°{period.temperatureUnit}"
    wind = " ".join(filter(None, (period.windSpeed, period.windDirection))) or "unknown"
    return f"{period.name}\nTemperature: {temperature}\nWind: {wind}\nForecast: {period.detailedForecast}"


def _sections(sections: Iterable[str]) -> str:
    return "\n\n---\n\n".join(sections)
