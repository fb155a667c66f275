from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from perdure import ToolError
from perdure.servers import climate, open_meteo
from perdure.servers.standins.climate import Archive, climate_standin
from perdure.servers.standins.faults import Cut, Down, Fault, Refuse, Slow, by_chance
from perdure.servers.standins.standin import Standin
from perdure.testing import Trial, crash_everywhere, trial
from tests.servers.processes import Refusal, ask, ask_at, asked, running

BERLIN = {"latitude": 52.5, "longitude": 13.4}
MARCH = BERLIN | {"year": 2024, "month": 3}
FEBRUARY = BERLIN | {"year": 2024, "month": 2}
MARCH_JOB, FEBRUARY_JOB = "weather_data_52.5_13.4_2024_3", "weather_data_52.5_13.4_2024_2"
ARCHIVE = "/v1/archive"


@asynccontextmanager
async def archive(
    monkeypatch: pytest.MonkeyPatch, *faults: Fault | None, having: Archive | None = None
) -> AsyncGenerator[Standin]:
    standin = climate_standin([(ARCHIVE, faults)], having)
    async with standin.listening():
        monkeypatch.setenv(open_meteo.SETTING, standin.url)
        yield standin


@pytest.fixture
async def client(tmp_path: Path) -> AsyncGenerator[Client]:
    climate.mcp.engine = tmp_path / "climate.db"
    async with Client(climate.mcp) as client:
        yield client


async def until_counted(standin: Standin, received: int) -> None:
    async with asyncio.timeout(20):
        while standin.counts[ARCHIVE].received < received:
            await asyncio.sleep(0.01)


# --- the tools ------------------------------------------------------------------------------------


async def test_a_month_is_gathered_by_a_job_that_is_found_by_its_name(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archive(monkeypatch):
        assert await ask(client, "start_gathering", **FEBRUARY) == {"job_name": FEBRUARY_JOB}
        results = await ask(client, "await_result", job_names=[FEBRUARY_JOB])
        statuses = await ask(client, "probe_status", job_names=[FEBRUARY_JOB])

    assert statuses == {"result": [{"job_name": FEBRUARY_JOB, "status": "completed"}]}
    weather = results[FEBRUARY_JOB]
    assert weather["timezone"] == "UTC"
    assert weather["daily_units"]["precipitation_sum"] == "mm"
    assert (weather["daily"]["time"][0], weather["daily"]["time"][-1]) == ("2024-02-01", "2024-02-29")
    assert weather["daily"]["temperature_2m_max"][0] == 8.6
    assert weather["daily"]["temperature_2m_min"][0] == 1.6
    assert len(weather["daily"]["precipitation_sum"]) == 29


async def test_the_same_job_twice_makes_one_request(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with archive(monkeypatch, Slow(0.2)) as standin:
        names = await asyncio.gather(*(ask(client, "start_gathering", **MARCH) for _ in range(5)))
        first = await ask(client, "await_result", job_names=[MARCH_JOB, MARCH_JOB])
        names.append(await ask(client, "start_gathering", **MARCH))
        again = await ask(client, "await_result", job_names=[MARCH_JOB])

    assert names == [{"job_name": MARCH_JOB}] * 6
    assert again == first
    assert standin.counts[ARCHIVE].received == 1


async def test_days_begin_where_the_client_says(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with archive(monkeypatch):
        await ask(client, "start_gathering", **MARCH, timezone="Asia/Tokyo")
        results = await ask(client, "await_result", job_names=[MARCH_JOB])

    assert results[MARCH_JOB]["timezone"] == "Asia/Tokyo"


async def test_a_month_has_one_job_whatever_the_time_zone(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with archive(monkeypatch):
        await ask(client, "start_gathering", **MARCH)
        with pytest.raises(Refusal, match=f"{MARCH_JOB} gathers with days of another time zone than Asia/Tokyo"):
            await ask(client, "start_gathering", **MARCH, timezone="Asia/Tokyo")


async def test_every_fault_of_the_archive_is_outlived(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with archive(monkeypatch, Refuse(503, "0"), Refuse(429, "0"), Cut(), Down(0.2)) as standin:
        await ask(client, "start_gathering", **MARCH)
        await ask(client, "await_result", job_names=[MARCH_JOB])

    counts = standin.counts[ARCHIVE]
    assert (counts.succeeded, counts.after_success) == (1, 0)


async def test_what_goes_wrong_by_chance_is_outlived(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    async with archive(monkeypatch, *islice(by_chance(7, [Refuse(503, "0"), Cut()]), 40)):
        names = [await ask(client, "start_gathering", **BERLIN, year=2024, month=month) for month in range(1, 7)]
        results = await ask(client, "await_result", job_names=[name["job_name"] for name in names])

    assert [len(weather["daily"]["time"]) for weather in results.values()] == [31, 29, 31, 30, 31, 30]


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"latitude": 90.5}, "less than or equal to 90"),
        ({"latitude": "NaN"}, "finite number"),
        ({"longitude": -181}, "greater than or equal to -180"),
        ({"month": 13}, "less than or equal to 12"),
        ({"month": 0}, "greater than or equal to 1"),
        ({"year": 1939}, "greater than or equal to 1940"),
        ({"year": 2999, "month": 12}, "December 2999 is not over yet"),
        ({"timezone": ""}, "at least 1 character"),
    ],
)
async def test_bad_arguments_are_refused_and_nothing_is_asked(
    arguments: dict[str, Any], problem: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archive(monkeypatch) as standin:
        with pytest.raises(Refusal, match=problem):
            await ask(client, "start_gathering", **MARCH | arguments)

    assert not standin.counts


@pytest.mark.parametrize("tool", ["probe_status", "await_result"])
async def test_a_job_that_nobody_started_is_not_found(
    tool: str, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archive(monkeypatch):
        await ask(client, "start_gathering", **MARCH)
        with pytest.raises(Refusal, match=rf"There is no job {FEBRUARY_JOB}, x\."):
            await ask(client, tool, job_names=[MARCH_JOB, FEBRUARY_JOB, "x"])


async def test_a_job_that_failed_says_why_and_can_be_started_again(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archive(monkeypatch, None, Refuse(400)) as standin:
        await ask(client, "start_gathering", **MARCH)
        await ask(client, "await_result", job_names=[MARCH_JOB])
        await ask(client, "start_gathering", **FEBRUARY)
        with pytest.raises(
            Refusal, match=r"2024_2 failed: The archive refused the request \(400\)\. The other jobs are"
        ):
            await ask(client, "await_result", job_names=[MARCH_JOB, FEBRUARY_JOB])
        statuses = await ask(client, "probe_status", job_names=[MARCH_JOB, FEBRUARY_JOB])
        await ask(client, "start_gathering", **FEBRUARY)
        again = await ask(client, "await_result", job_names=[FEBRUARY_JOB])

    assert [each["status"] for each in statuses["result"]] == ["completed", "failed"]
    assert len(again[FEBRUARY_JOB]["daily"]["time"]) == 29
    assert standin.counts[ARCHIVE].received == 3


async def test_a_time_zone_that_the_archive_does_not_know_is_said_by_the_job(
    client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with archive(monkeypatch):
        await ask(client, "start_gathering", **MARCH, timezone="Mars/Olympus")
        with pytest.raises(Refusal, match=r"Invalid timezone\. start_gathering tries"):
            await ask(client, "await_result", job_names=[MARCH_JOB])


async def test_an_answer_of_another_form_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    async with archive(monkeypatch), open_meteo.open_client() as http:
        monkeypatch.setattr(open_meteo, "DAILY", ("temperature_2m_max",))
        with pytest.raises(ToolError, match=r"daily\.temperature_2m_min: Field required"):
            await open_meteo.weather_between(http, 52.5, 13.4, date(2024, 3, 1), date(2024, 3, 2), "UTC")


# --- days that are not there yet ------------------------------------------------------------------


async def test_the_last_days_of_a_month_are_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    async with archive(monkeypatch, having=(having := Archive())) as standin, trial(climate.mcp) as t:
        last = having.missing_from = _ended_just_before(t)
        job = await t.start(climate.weather_data, BERLIN | {"year": last.year, "month": last.month, "timezone": "UTC"})
        await t.settle()
        view = await t.calls.get(job.id)
        assert (view.status, view.text) == ("waiting", "The archive does not have all days of this month yet.")

        having.missing_from = date.max
        await t.advance(climate.PAUSE)
        assert (await job.result()).daily.are_complete
        assert standin.counts[ARCHIVE].received == 2


def _ended_just_before(t: Trial) -> date:
    """The last day of the month that the trial is in: it has no value yet."""
    following = (t.now.date().replace(day=28) + timedelta(days=4)).replace(day=1)
    return following - timedelta(days=1)


async def test_days_that_never_come_are_given_up_after_ten_days(monkeypatch: pytest.MonkeyPatch) -> None:
    async with archive(monkeypatch, having=(having := Archive())), trial(climate.mcp) as t:
        last = having.missing_from = _ended_just_before(t)
        job = await t.start(climate.weather_data, BERLIN | {"year": last.year, "month": last.month, "timezone": "UTC"})
        end = datetime.combine(last, datetime.min.time(), UTC)
        await t.advance(end + open_meteo.LATE - timedelta(hours=1) - t.now)
        assert (await t.calls.get(job.id)).status == "waiting"

        await t.advance(timedelta(hours=7))
        assert (await job.result()).daily.temperature_2m_max[-1] is None


# --- crashes --------------------------------------------------------------------------------------


async def test_wherever_it_crashes_a_month_is_gathered_once_started() -> None:
    async def gathered(t: Trial) -> tuple[str, int]:
        async def read(latitude: float, longitude: float, first: date, last: date, timezone: str) -> open_meteo.Weather:
            days = open_meteo.Days(time=[first], temperature_2m_max=[1], temperature_2m_min=[1], precipitation_sum=[1])
            return open_meteo.Weather(latitude=52.5, longitude=13.4, timezone=timezone, daily_units={}, daily=days)

        t.stub(climate.read_archive, read)
        started = await (await t.start("start_gathering", MARCH)).result()
        weather = await (await t.start("await_result", {"job_names": [started.job_name]})).result()
        return started.job_name, len(weather[started.job_name].daily.time)

    assert set(await crash_everywhere(climate.mcp, gathered)) == {(MARCH_JOB, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("faults", [[Slow(30)], [Refuse(503, "2")]], ids=["asking the archive", "between two attempts"])
async def test_a_server_that_is_killed_goes_on_with_its_jobs(
    faults: list[Fault], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "climate.db"
    async with archive(monkeypatch, *faults) as standin:
        settings = {open_meteo.SETTING: standin.url}
        async with running("climate", file, settings) as server:
            assert await ask_at(server.address, "start_gathering", **MARCH) == {"job_name": MARCH_JOB}
            async with asked(server.address, "await_result", job_names=[MARCH_JOB]):
                await until_counted(standin, 1)
                await server.kill()
        async with running("climate", file, settings) as server, asyncio.timeout(30):
            results = await ask_at(server.address, "await_result", job_names=[MARCH_JOB])
            await ask_at(server.address, "start_gathering", **MARCH)
            await ask_at(server.address, "await_result", job_names=[MARCH_JOB])

    assert len(results[MARCH_JOB]["daily"]["time"]) == 31
    assert standin.counts[ARCHIVE].received == 2


@pytest.mark.slow
async def test_a_month_that_was_gathered_is_not_asked_for_by_the_next_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "climate.db"
    async with archive(monkeypatch) as standin:
        settings = {open_meteo.SETTING: standin.url}
        for _ in range(2):
            async with running("climate", file, settings) as server:
                await ask_at(server.address, "start_gathering", **MARCH)
                await ask_at(server.address, "await_result", job_names=[MARCH_JOB])
                await server.kill()

    assert standin.counts[ARCHIVE].received == 1
