"""Every body of the corpus, crashed at every place, ends the same way as if nothing had happened."""

from __future__ import annotations

from random import Random

import pytest

from perdure.core.commands import Complete, Finish
from tests.core.bodies import ALL, BODIES, Main, encode
from tests.core.simulation import Crash, Plan, World, check, run

SIGNALS = ("yes", "no", "yes")


def name_of(main: Main) -> str:
    return main.__name__


every_body = pytest.mark.parametrize("main", ALL, ids=name_of)


def assert_is_right(main: Main, finish: Finish) -> None:
    if main in BODIES:
        assert finish == Complete(encode(BODIES[main]))


@every_body
def test_a_journal_replays_to_the_same_end_whatever_was_faster(main: Main) -> None:
    for seed in range(20):
        world = World()
        finish = run(world, main, Plan(Random(seed), SIGNALS))
        assert_is_right(main, finish)
        check(world, main, finish)


@every_body
def test_a_crash_at_any_place_changes_nothing_and_runs_nothing_again(main: Main) -> None:
    for seed in range(5):
        whole = World()
        run(whole, main, Plan(Random(seed), SIGNALS))
        for place in range(len(whole.journal)):
            world = World()
            with pytest.raises(Crash):
                run(world, main, Plan(Random(seed), SIGNALS, crash_at=place))
            finish = run(world, main, Plan(Random(-seed - place), SIGNALS))
            assert_is_right(main, finish)
            check(world, main, finish)


@every_body
def test_it_can_crash_before_every_event_and_still_ends(main: Main) -> None:
    for seed in range(5):
        world, finish, place = World(), None, 0
        while finish is None:
            try:
                finish = run(world, main, Plan(Random(seed + place), SIGNALS, crash_at=place))
            except Crash:
                place += 1
        assert_is_right(main, finish)
        check(world, main, finish)


@every_body
def test_a_cancel_at_any_place_replays_the_same_clean_up(main: Main) -> None:
    for seed in range(3):
        whole = World()
        run(whole, main, Plan(Random(seed), SIGNALS))
        for place in range(1, len(whole.journal)):
            world = World()
            for crash_at in (place + 2, place + 3, None):
                plan = Plan(Random(seed + place), SIGNALS, cancel_at=place, crash_at=crash_at)
                try:
                    finish = run(world, main, plan)
                except Crash:
                    continue
                check(world, main, finish)
                break


@every_body
def test_a_second_cancel_ends_it_at_once(main: Main) -> None:
    for seed in range(3):
        whole = World()
        run(whole, main, Plan(Random(seed), SIGNALS))
        for place in range(1, len(whole.journal)):
            world = World()
            finish = run(world, main, Plan(Random(seed), SIGNALS, cancel_at=place, cancels=2))
            check(world, main, finish)
