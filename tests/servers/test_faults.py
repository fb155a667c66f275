from __future__ import annotations

from itertools import islice

import pytest

from perdure.servers.standins.faults import Cut, Down, Refuse, Schedule, Slow, by_chance, parse_faults


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


def test_faults_by_chance_are_the_same_for_the_same_seed() -> None:
    met = [list(islice(by_chance(seed), 200)) for seed in (7, 7, 8)]

    assert met[0] == met[1] != met[2]
    assert 40 < met[0].count(None) < 160


def test_planned_faults_come_before_those_by_chance() -> None:
    schedule = Schedule([("/a", [Cut()]), ("/", by_chance(7, [Refuse(500)], share=1))])

    assert [schedule.next(path) for path in ("/a", "/a", "/b")] == [Cut(), Refuse(500), Refuse(500)]
