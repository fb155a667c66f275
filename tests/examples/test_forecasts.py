from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from mcp import Client
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from examples.forecasts import mcp
from tests.examples.service import Service, ask, json_reply, listening

FORECAST = "Tonight: Clear.\nThursday: Sunny."
PERIODS = [{"name": "Tonight", "detailedForecast": "Clear."}, {"name": "Thursday", "detailedForecast": "Sunny."}]
PLACE = {"latitude": 39.7, "longitude": -97.1}


async def point(request: Request) -> Response:
    if request.path_params["place"].startswith("0.0"):
        return JSONResponse({}, 404)
    return JSONResponse({"properties": {"gridId": "TOP", "gridX": 32, "gridY": 81}})


@pytest.fixture
async def weather(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Service]:
    mcp.engine = tmp_path / "forecasts.db"
    forecast = json_reply({"properties": {"periods": PERIODS}})
    answers = {("GET", "/points/{place}"): point, ("GET", "/gridpoints/TOP/32,81/forecast"): forecast}
    async with listening(Service(answers)) as service:
        monkeypatch.setenv("FORECASTS_URL", service.url)
        yield service


async def test_a_forecast_survives_a_service_that_fails(weather: Service) -> None:
    weather.before["points"] = [503, 429]
    weather.before["gridpoints"] = [500]
    async with Client(mcp) as client:
        assert await ask(client, "get_forecast", **PLACE) == FORECAST
    assert weather.asked == {"GET points": 3, "GET gridpoints": 2}
    assert weather.done == {"GET points": 1, "GET gridpoints": 1}


async def test_all_who_ask_for_a_place_get_one_forecast(weather: Service) -> None:
    async with Client(mcp) as client:
        assert [await ask(client, "get_forecast", **PLACE) for _ in range(3)] == [FORECAST] * 3
    assert weather.done == {"GET points": 1, "GET gridpoints": 1}


async def test_an_unknown_place_is_asked_for_once(weather: Service) -> None:
    async with Client(mcp) as client:
        assert "does not know this place" in await ask(client, "get_forecast", latitude=0.0, longitude=0.0)
    assert weather.asked == {"GET points": 1}
