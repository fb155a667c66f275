from __future__ import annotations

import pytest

from perdure.servers.standins.faults import Cut, Down, Refuse, Schedule, Slow, parse_faults


def test_a_schedule_is_written_as_text() -> None:
    assert parse_faults("/points=503,slow:0.5,ok,429:2,cut,down:3") == (
        "/points",
        [Refuse(503), Slow(0.5), None, Refuse(429, "2"), Cut(), Down(3)],
    )


@pytest.mark.parametrize("text", ["points=503", "/points", "/points=lost", "/points=200", "/points=slow:often", "/a="])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_faults(text)


def test_the_nth_request_under_a_prefix_meets_the_nth_fault() -> None:
    schedule = Schedule([("/a", [Cut(), None, Slow(1)]), ("/b", [Down(2)])])

    assert [schedule.next(path) for path in ("/a/1", "/b", "/a/2", "/a/1", "/a", "/b", "/c")] == [
        Cut(),
        Down(2),
        None,
        Slow(1),
        None,
        None,
        None,
    ]
