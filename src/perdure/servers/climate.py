"""The climate server: past weather of whole months, gathered by jobs that are found again by their names."""

from __future__ import annotations

import calendar
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated

from mcp_types import ToolAnnotations
from pydantic import AfterValidator, BaseModel, Field

from perdure import CallFailed, CallNotFound, CallView, Conflict, DurableContext, DurableMCP, Retry, ToolError, step
from perdure.servers import open_meteo
from perdure.servers.open_meteo import Weather

mcp = DurableMCP(
    "climate",
    instructions=(
        "Daily temperatures and precipitation of past months, anywhere since 1940. Start a job for each month with "
        "start_gathering, then get the results of all with await_result."
    ),
    lifespan=open_meteo.open_client,
)

IDEMPOTENT = ToolAnnotations(idempotent_hint=True, open_world_hint=True)
READ_ONLY = ToolAnnotations(read_only_hint=True, open_world_hint=False)
REUSE = timedelta(days=30)
PAUSE = timedelta(hours=6)
"""How long to wait before looking again for days that the archive does not have yet."""

JOB_NAME = "weather_data_{latitude}_{longitude}_{year}_{month}"

newest = mcp.store("newest", str)
"""For each job name the call that was started last: one that failed has lost its key, and is asked for all the same."""


# --- what clients say -----------------------------------------------------------------------------


def positive_zero(degrees: float) -> float:
    """So that one place has one name."""
    return degrees + 0.0


Latitude = Annotated[
    float, Field(ge=-90, le=90, allow_inf_nan=False, description="In degrees north"), AfterValidator(positive_zero)
]
Longitude = Annotated[
    float, Field(ge=-180, le=180, allow_inf_nan=False, description="In degrees east"), AfterValidator(positive_zero)
]
Year = Annotated[int, Field(ge=open_meteo.FIRST_YEAR, le=9999)]
Month = Annotated[int, Field(ge=1, le=12)]
Timezone = Annotated[
    str,
    Field(min_length=1, max_length=64, description="Where days begin: Europe/Berlin …, or auto for that of the place"),
]
JobNames = Annotated[list[str], Field(min_length=1, max_length=1000, description="As start_gathering gave them")]


class Started(BaseModel):
    job_name: str


class JobStatus(BaseModel):
    job_name: str
    status: str


# --- gathering ------------------------------------------------------------------------------------


# The archive is down or overloaded now and then; whoever asked for a month still wants it when it is back.
@step(timeout=timedelta(minutes=1), retry=Retry(attempts=None, ceiling=timedelta(minutes=5)))
async def read_archive(latitude: float, longitude: float, first: date, last: date, timezone: str) -> Weather:
    return await open_meteo.weather_between(mcp.state, latitude, longitude, first, last, timezone)


@mcp.job(key=JOB_NAME, shared=True, reuse=REUSE)
async def weather_data(
    ctx: DurableContext, latitude: float, longitude: float, year: int, month: int, timezone: str
) -> Weather:
    """One month at one place. The last days of a month that has just ended are waited for."""
    first, last = days_of(year, month)
    patience = datetime.combine(last, time(), UTC) + open_meteo.LATE
    while True:
        weather = await read_archive(latitude, longitude, first, last, timezone)
        if weather.daily.are_complete or ctx.now() >= patience:
            return weather
        await ctx.set_status("The archive does not have all days of this month yet.")
        await ctx.sleep(PAUSE)


def days_of(year: int, month: int) -> tuple[date, date]:
    return date(year, month, 1), date(year, month, calendar.monthrange(year, month)[1])


# --- tools ----------------------------------------------------------------------------------------


@mcp.tool(annotations=IDEMPOTENT)
async def start_gathering(
    ctx: DurableContext, latitude: Latitude, longitude: Longitude, year: Year, month: Month, timezone: Timezone = "UTC"
) -> Started:
    """Start a job that gathers the daily weather of a past month at a place; for all who start it, it is one job."""
    if (year, month) >= (ctx.now().year, ctx.now().month):
        raise ToolError(f"{calendar.month_name[month]} {year} is not over yet (UTC); only past months can be gathered.")
    job_name = JOB_NAME.format(latitude=latitude, longitude=longitude, year=year, month=month)
    try:
        job = await weather_data.start(latitude, longitude, year, month, timezone)
    except Conflict as taken:
        raise ToolError(
            f"{job_name} gathers with days of another time zone than {timezone}, and a month has one job. "
            "Its result says which one it is."
        ) from taken
    await newest.set(job_name, job.id)
    return Started(job_name=job_name)


@mcp.tool(annotations=READ_ONLY)
async def probe_status(job_names: JobNames) -> list[JobStatus]:
    """How far some jobs are: running, waiting, completed, failed, cancelled or stuck."""
    return [JobStatus(job_name=name, status=job.status) for name, job in (await find_jobs(job_names)).items()]


@mcp.tool(annotations=READ_ONLY)
async def await_result(ctx: DurableContext, job_names: JobNames) -> dict[str, Weather]:
    """Wait for some jobs, which may take days, and get what they gathered."""
    jobs = await find_jobs(job_names)
    results: dict[str, Weather] = {}
    problems: list[str] = []
    for name, job in jobs.items():
        try:
            results[name] = await mcp.calls.result(job.id)
        except CallFailed as failed:
            problems.append(f"{name} failed: {failed.message.rstrip('.')}.")
    if problems:
        others = "" if len(problems) == len(jobs) else " The other jobs are done: ask for them alone."
        raise ToolError(" ".join(problems) + f"{others} start_gathering tries a failed one again.")
    return results


async def find_jobs(job_names: list[str]) -> dict[str, CallView]:
    found = {name: await find_job(name) for name in job_names}
    if unknown := [name for name, job in found.items() if job is None]:
        raise ToolError(f"There is no job {', '.join(unknown)}. start_gathering starts one and gives its name.")
    return {name: job for name, job in found.items() if job is not None}


async def find_job(name: str) -> CallView | None:
    """The call that has the name as its key, else the one that had it last."""
    if (holder := await mcp.calls.lookup("weather_data", name)) is not None:
        return holder
    if (call_id := await newest.get(name)) is None:
        return None
    try:
        return await mcp.calls.get(call_id)
    except CallNotFound:  # its time is over
        return None
