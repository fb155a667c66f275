from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp import Client
from mcp_types import TextContent

from perdure.servers import nws, weather
from perdure.servers.standins.faults import Cut, Down, Refuse, Slow
from tests.servers.weather_service import FORECAST, KANSAS, weather_service

TONIGHT = "Tonight\nTemperature: 41°F\nWind: 5 mph NW\nForecast: Clear, with a low around 41."


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[Client]:
    weather.mcp.engine = tmp_path / "weather.db"
    async with Client(weather.mcp) as client:
        yield client


async def ask(client: Client, tool: str, /, **arguments: object) -> tuple[str, bool]:
    result = await client.call_tool(tool, arguments)
    return "\n".join(block.text for block in result.content if isinstance(block, TextContent)), bool(result.is_error)


# --- places and answers ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("degrees", "rounded"), [(39.745612, 39.7456), (-97.08924, -97.0892), (0.00004, 0.0), (-0.00001, 0.0), (7, 7.0)]
)
def test_one_place_has_one_key(degrees: float, rounded: float) -> None:
    assert str(weather.four_decimals(degrees)) == str(rounded)


@pytest.mark.parametrize(
    ("latitude", "longitude", "path"),
    [(39.7456, -97.0892, "39.7456,-97.0892"), (39.7, -97.0, "39.7,-97"), (0.0001, 100.0, "0.0001,100")],
)
def test_a_place_is_written_without_trailing_zeros(latitude: float, longitude: float, path: str) -> None:
    assert weather.point(latitude, longitude) == path


def test_states_are_known_in_any_case() -> None:
    assert [weather.known_state(code) for code in ("CA", "pr", " gu ")] == ["CA", "PR", "GU"]
    assert len(nws.STATES) == 59


def test_what_the_service_leaves_out_is_said_to_be_unknown() -> None:
    period = nws.Period(
        name="Tonight",
        temperature=None,
        temperatureUnit="F",
        windSpeed="5 mph",
        windDirection=None,
        detailedForecast="Clear.",
    )
    alert = nws.Alert(event="Flood Watch", areaDesc="Coast", severity="Severe")

    assert weather.render_forecast([period]) == "Tonight\nTemperature: unknown\nWind: 5 mph\nForecast: Clear."
    assert weather.render_alerts("CA", [alert]) == (
        "Event: Flood Watch\nArea: Coast\nSeverity: Severe\nDescription: none given\nInstruction: none given"
    )
    assert weather.render_alerts("CA", []) == "There are no active alerts for CA."
    assert "no forecast" in weather.render_forecast([])


# --- steps ----------------------------------------------------------------------------------------


async def test_the_steps_find_and_read_a_forecast(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch):
        path = await weather.find_forecast(39.7456, -97.0892)
        periods = await weather.read_forecast(path)

    assert path == FORECAST
    assert [period.name for period in periods] == [
        "Tonight",
        "Thursday",
        "Thursday Night",
        "Friday",
        "Friday Night",
    ]


async def test_a_forecast_is_read_where_the_service_is_then(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch):
        path = await weather.find_forecast(39.7456, -97.0892)
    async with weather_service(monkeypatch) as elsewhere:
        await weather.read_forecast(path)

    assert elsewhere.counts[FORECAST].succeeded == 1


# --- tools ----------------------------------------------------------------------------------------


async def test_alerts_are_told(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch):
        text, is_error = await ask(client, "get_alerts", state="CA")

    assert not is_error
    assert text.startswith("Event: Heat Advisory\nArea: San Joaquin Valley; Kern County Desert\nSeverity: Moderate\n")
    assert "Instruction: none given" in text


async def test_alerts_survive_every_fault_of_the_service(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    faults = [Refuse(503), Refuse(429, "0"), Cut(), Slow(0.1)]
    async with weather_service(monkeypatch, alerts=[*faults]) as service:
        text, is_error = await ask(client, "get_alerts", state="CA")
        counts = service.counts["/alerts/active/area/CA"]

    assert not is_error, text
    assert (counts.received, counts.succeeded, counts.after_success) == (4, 1, 0)


async def test_alerts_survive_a_service_that_is_down(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch, alerts=[Down(0.3)]) as service:
        text, is_error = await ask(client, "get_alerts", state="CA")
        counts = service.counts["/alerts/active/area/CA"]

    assert not is_error, text
    assert (counts.received, counts.succeeded, counts.after_success) == (2, 1, 0)


async def test_all_who_ask_share_one_call_and_its_answer(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch, alerts=[Slow(0.3)]) as service:
        states = ["CA", "ca", " Ca"] * 5
        together = await asyncio.gather(*(ask(client, "get_alerts", state=state) for state in states))
        later = await ask(client, "get_alerts", state="CA")
        counts = service.counts["/alerts/active/area/CA"]

    assert {*together, later} == {together[0]}
    assert counts.received == 1


@pytest.mark.slow
async def test_a_forecast_is_its_first_five_periods(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch, points=[Refuse(503)], gridpoints=[Cut()]) as service:
        text, is_error = await ask(client, "get_forecast", latitude=39.74558, longitude=-97.08919)
        again, _ = await ask(client, "get_forecast", latitude=39.7456, longitude=-97.0892)

        assert not is_error, text
        assert again == text
        assert text.startswith(TONIGHT)
        assert text.count("Temperature:") == 5
        assert service.counts[KANSAS].succeeded == service.counts[FORECAST].succeeded == 1


async def test_a_place_that_the_service_does_not_know_is_asked_for_once(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with weather_service(monkeypatch) as service:
        text, is_error = await ask(client, "get_forecast", latitude=48.85, longitude=2.35)

    assert is_error
    assert "does not know this place" in text
    assert service.counts["/points/48.85,2.35"].received == 1


@pytest.mark.parametrize(
    ("tool", "arguments", "problem"),
    [
        ("get_alerts", {"state": "ZZ"}, "not the code of a US state"),
        ("get_alerts", {"state": "California"}, "not the code of a US state"),
        ("get_forecast", {"latitude": 90.5, "longitude": 0}, "less than or equal to 90"),
        ("get_forecast", {"latitude": 0, "longitude": -181}, "greater than or equal to -180"),
        ("get_forecast", {"latitude": "NaN", "longitude": 0}, "finite number"),
    ],
)
async def test_bad_arguments_are_refused_and_nothing_is_asked(
    tool: str, arguments: dict[str, object], problem: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with weather_service(monkeypatch) as service:
        text, is_error = await ask(client, tool, **arguments)

    assert is_error
    assert problem in text
    assert not service.counts


async def test_a_refusal_of_the_service_reaches_the_client(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch, alerts=[Refuse(400)]):
        text, is_error = await ask(client, "get_alerts", state="CA")

    assert is_error
    assert "refused the request (400). as planned" in text


async def test_tools_say_that_they_only_read(client: Client) -> None:
    tools = (await client.list_tools()).tools

    assert {tool.name: tool.annotations.read_only_hint if tool.annotations else None for tool in tools} == {
        "get_alerts": True,
        "get_forecast": True,
    }
