from __future__ import annotations

import io
import shlex
from datetime import UTC, date, datetime, timedelta
from typing import Literal

import pytest
from pydantic import BaseModel, Field
from rich.console import Console, RenderableType

from perdure.cli.render import call_page, calls_table, duration, form_example, printable, result_text, timeline_table
from perdure.engine import CallView, Question, SignalSpec, TimelineEntry

NOON = datetime(2026, 7, 28, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=5)


def call(**changes: object) -> CallView:
    facts: dict[str, object] = {
        "id": "0123456789abcdef0123456789abcdef",
        "tool": "get_forecast",
        "function": "weather:get_forecast",
        "kind": "tool",
        "key": "forecast-39.7--97.0",
        "status": "waiting",
        "created": NOON,
    }
    return CallView(**(facts | changes))  # pyright: ignore[reportArgumentType]  facts of a test


def shown(what: RenderableType) -> list[str]:
    out = io.StringIO()
    Console(file=out, width=120).print(what)
    return [line.rstrip() for line in out.getvalue().splitlines()]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-3, "0 ms"),
        (0.0124, "12 ms"),
        (0.9996, "1.0 s"),
        (59.94, "59.9 s"),
        (59.96, "1 min 0 s"),
        (3599, "59 min 59 s"),
        (3600 * 5 + 60, "5 h 1 min"),
        (86400 * 3 + 3600 * 2, "3 d 2 h"),
    ],
)
def test_a_duration_is_said_in_its_two_largest_units(seconds: float, text: str) -> None:
    assert duration(timedelta(seconds=seconds)) == text


def test_calls_are_a_table_with_short_ids() -> None:
    found = [
        ("weather", call()),
        ("weather", call(id="ffff", status="completed", key=None, ended=NOON + timedelta(seconds=12.3))),
        ("invoice", call(id="eeee", tool="pay", status="running", text="charging\nthe card")),
    ]

    assert shown(calls_table(found, LATER, with_server=True)) == [
        "id        tool          key                  status     age        took    says      server",
        "01234567  get_forecast  forecast-39.7--97.0  waiting    5 min 0 s                    weather",
        "ffff      get_forecast                       completed  5 min 0 s  12.3 s            weather",
        "eeee      pay           forecast-39.7--97.0  running    5 min 0 s          charging  invoice",
    ]


def test_a_call_that_says_nothing_shows_until_when_it_waits() -> None:
    tick = call(key="every 3600 s, tick 495973", wakes=NOON + timedelta(hours=1))
    says = "waiting until 2026-07-28 13:00:00 UTC"

    assert shown(calls_table([("weather", tick)], LATER, with_server=False))[1].endswith(f"5 min 0 s        {says}")
    assert f"says   {says}" in shown(call_page(tick, [], LATER))
    assert "says   asking" in shown(call_page(call(text="asking", wakes=LATER), [], LATER))


def test_a_page_shows_facts_questions_and_a_timeline_from_the_start() -> None:
    view = call(
        text="asking",
        questions=(Question("confirm", "form", "Pay 40 $?", {}, None),),
        signals=(SignalSpec("decision", True, {}),),
    )
    timeline = [
        TimelineEntry(NOON, "started", "on Python 3.11"),
        TimelineEntry(
            at=NOON + timedelta(seconds=3),
            kind="step",
            name="find_forecast",
            attempts=2,
            began=NOON + timedelta(seconds=1),
            ended=NOON + timedelta(seconds=3),
            error="TryAgain: busy",
        ),
        TimelineEntry(
            at=NOON + timedelta(seconds=4),
            kind="step tried",
            name="read_forecast",
            attempts=1,
            error="ConnectError: refused",
            next_attempt=NOON + timedelta(seconds=9),
        ),
    ]

    assert shown(call_page(view, timeline, LATER)) == [
        "get_forecast  waiting",
        "",
        "id       0123456789abcdef0123456789abcdef",
        "key      forecast-39.7--97.0",
        "began    2026-07-28 12:00:00 UTC, 5 min 0 s ago",
        "says     asking",
        "accepts  decision",
        "",
        "Questions",
        "  confirm  Pay 40 $?",
        "Answer: perdure answer 0123456789abcdef0123456789abcdef '{}' or --decline",
        "",
        "at      what        name            attempts  took   error",
        "+0 ms   started     on Python 3.11",
        "+1.0 s  step        find_forecast   2         2.0 s  TryAgain: busy",
        "+4.0 s  step tried  read_forecast   1                ConnectError: refused — next attempt at +9.0 s",
    ]


def test_the_example_of_an_answer_fits_the_form() -> None:
    class Delivery(BaseModel):
        wrapped: bool
        pieces: int = Field(ge=3)
        weight: float = Field(le=0.5)
        by: Literal["foot", "bike"]
        street: str = Field(min_length=4)
        day: date
        note: str | None = None
        extras: list[Literal["card", "bow"]]

    question = Question("gift", "form", "Which?", Delivery.model_json_schema(), None)
    (example,) = shlex.split(form_example(question))

    assert Delivery.model_validate_json(example).by == "foot"


def test_steps_of_one_name_are_told_apart() -> None:
    def line(kind: str, name: str) -> TimelineEntry:
        return TimelineEntry(NOON, kind, name)

    timeline = [line("step", "fetch"), line("child", "fetch"), line("step failed", "fetch"), line("step", "pay")]
    rows = shown(timeline_table(timeline, NOON))[1:]
    assert [row.split(maxsplit=2)[2].strip() for row in rows] == [
        "step         fetch #1",
        "child        fetch",
        "step failed  fetch #2",
        "step         pay",
    ]


def test_a_tools_result_is_shown_as_its_text() -> None:
    assert result_text({"content": [{"type": "text", "text": "Sunny"}, {"type": "image", "data": "…"}]}) == (
        "Sunny\n(image)"
    )
    assert result_text({"total": 3}) == "{'total': 3}"
    assert result_text(None) == ""


def test_text_from_elsewhere_cannot_steer_the_terminal_or_the_layout() -> None:
    assert printable("\x1b[31mred\x07 [bold]x[/bold]\tü\n").plain == "�[31mred� [bold]x[/bold]\tü\n"
    assert "[bold]pay[/bold]" in shown(calls_table([("s", call(tool="[bold]pay[/bold]"))], LATER, with_server=False))[1]
