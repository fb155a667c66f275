from __future__ import annotations

import asyncio
from datetime import timedelta

import httpx
import pytest

from perdure import ToolError, TryAgain
from perdure.servers import nws
from perdure.servers.standins.faults import Cut, Down, Refuse, Slow
from tests.servers.weather_service import FORECAST, KANSAS, weather_service


async def test_the_service_answers_a_point_a_forecast_and_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch) as service, nws.open_client() as http:
        point = await nws.get(http, KANSAS, nws.Point)
        forecast = await nws.get(http, nws.own_path(point.forecast), nws.Forecast)
        alerts = await nws.get(http, "/alerts/active/area/CA", nws.Alerts)
        none = await nws.get(http, "/alerts/active/area/KS", nws.Alerts)

    assert point.forecast == service.url + FORECAST
    assert [period.name for period in forecast.periods][:2] == ["Tonight", "Thursday"]
    assert [feature.properties.event for feature in alerts.features] == ["Heat Advisory", "Dense Fog Advisory"]
    assert none.features == []


async def test_a_slow_answer_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch, points=[Slow(0.2)]), nws.open_client() as http:
        assert (await nws.get(http, KANSAS, nws.Point)).forecast.endswith(FORECAST)


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
async def test_an_overloaded_service_is_worth_another_attempt(status: int, monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch, points=[Refuse(status, "7")]), nws.open_client() as http:
        with pytest.raises(TryAgain, match=str(status)) as refused:
            await nws.get(http, KANSAS, nws.Point)

    assert refused.value.after == timedelta(seconds=7)


@pytest.mark.parametrize("fault", [Cut(), Down(0.2)])
async def test_a_broken_connection_is_an_error_that_steps_retry(
    fault: Cut | Down, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with weather_service(monkeypatch, points=[fault]), nws.open_client() as http:
        with pytest.raises(httpx.TransportError):
            await nws.get(http, KANSAS, nws.Point)


async def test_a_service_that_is_down_refuses_connections_until_it_is_back(monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch, points=[Down(0.3)]) as service, nws.open_client() as http:
        with pytest.raises(httpx.TransportError):
            await nws.get(http, KANSAS, nws.Point)
        with pytest.raises(httpx.ConnectError):
            await nws.get(http, KANSAS, nws.Point)
        async with asyncio.timeout(10):
            while not await _answers(http):
                pass

        counts = service.counts[KANSAS]
    assert (counts.received, counts.succeeded, counts.after_success) == (2, 1, 0)


async def test_an_unknown_place_is_not_worth_another_attempt(monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch), nws.open_client() as http:
        with pytest.raises(ToolError, match="does not know this place"):
            await nws.get(http, "/points/48.85,2.35", nws.Point)


async def test_any_other_refusal_says_what_the_service_said(monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch), nws.open_client() as http:
        http.headers["User-Agent"] = "nobody"
        with pytest.raises(ToolError, match=r"\(403\)\. Say who you are"):
            await nws.get(http, KANSAS, nws.Point)


async def test_an_answer_of_another_form_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch), nws.open_client() as http:
        with pytest.raises(ToolError, match=r"properties\.periods: Field required"):
            await nws.get(http, KANSAS, nws.Forecast)


async def test_a_redirect_within_the_service_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch), nws.open_client() as http:
        assert (await nws.get(http, "/points/39.7450,-97.0890", nws.Point)).forecast.endswith(FORECAST)


async def test_a_redirect_to_another_host_is_not_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    async with weather_service(monkeypatch) as elsewhere, weather_service(monkeypatch), nws.open_client() as http:
        with pytest.raises(ToolError, match=elsewhere.url):
            await http.get(elsewhere.url + KANSAS)

    assert not elsewhere.counts


@pytest.mark.parametrize(
    ("setting", "link", "path"),
    [
        ("", "https://api.weather.gov/gridpoints/TOP/32,81/forecast", "/gridpoints/TOP/32,81/forecast"),
        ("", "https://api.weather.gov:443/a?units=si", "/a?units=si"),
        ("http://127.0.0.1:8080/nws/", "http://127.0.0.1:8080/nws/a", "/a"),
    ],
)
def test_a_link_of_the_service_is_kept_without_its_address(
    setting: str, link: str, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(nws.SETTING, setting)
    assert nws.own_path(link) == path


@pytest.mark.parametrize(
    "link",
    [
        "https://example.com/gridpoints/TOP/32,81/forecast",
        "http://api.weather.gov/gridpoints/TOP/32,81/forecast",
        "https://api.weather.gov:8443/a",
        "https://api.weather.gov@example.com/a",
        "/gridpoints/TOP/32,81/forecast",
    ],
)
def test_a_link_that_leads_elsewhere_is_refused(link: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(nws.SETTING, raising=False)
    with pytest.raises(ToolError, match="not followed"):
        nws.own_path(link)


async def _answers(http: httpx.AsyncClient) -> bool:
    try:
        await nws.get(http, KANSAS, nws.Point)
    except httpx.ConnectError:
        await asyncio.sleep(0.01)
        return False
    return True
