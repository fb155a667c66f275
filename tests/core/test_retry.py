"""When a step is tried again, as a table."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.core.retry import ONCE, Retry, TryAgain, next_delay

USELESS = (TypeError, LookupError)
FOREVER = Retry(attempts=None)


class Timeout(ConnectionError):
    pass


@pytest.mark.parametrize(
    ("policy", "attempt", "error", "again"),
    [
        (Retry(), 1, ValueError(), True),
        (Retry(), 4, ValueError(), True),
        (Retry(), 5, ValueError(), False),
        (Retry(attempts=2), 1, ValueError(), True),
        (Retry(attempts=2), 2, ValueError(), False),
        (ONCE, 1, ValueError(), False),
        (FOREVER, 1_000_000, ValueError(), True),
        # What trying again cannot mend …
        (Retry(), 1, TypeError(), False),
        (Retry(), 1, KeyError(), False),
        # … is tried again if it is named,
        (Retry(only_on=(TypeError,)), 1, TypeError(), True),
        (Retry(only_on=(LookupError,)), 1, KeyError(), True),
        # and what is not named is not.
        (Retry(only_on=(ConnectionError,)), 1, Timeout(), True),
        (Retry(only_on=(ConnectionError,)), 1, ValueError(), False),
        # `give_up_on` has the last word on errors …
        (Retry(give_up_on=(ValueError,)), 1, ValueError(), False),
        (Retry(only_on=(ConnectionError,), give_up_on=(Timeout,)), 1, Timeout(), False),
        (Retry(only_on=(ConnectionError,), give_up_on=(Timeout,)), 1, ConnectionError(), True),
        # … and none on a wish, which counts as an attempt all the same.
        (Retry(only_on=(ConnectionError,)), 1, TryAgain(), True),
        (Retry(give_up_on=(Exception,)), 1, TryAgain(), True),
        (Retry(attempts=3), 3, TryAgain(after=timedelta(0)), False),
        (ONCE, 1, TryAgain(), False),
    ],
)
def test_whether_it_is_tried_again(policy: Retry, attempt: int, error: Exception, again: bool) -> None:
    assert (next_delay(policy, attempt, error, USELESS, 0.5) is not None) is again


@pytest.mark.parametrize(("attempt", "wait"), [(1, 0.5), (2, 1), (3, 2), (4, 4), (7, 32), (8, 60), (9, 60), (5000, 60)])
def test_waits_double_up_to_a_minute(attempt: int, wait: float) -> None:
    most = next_delay(FOREVER, attempt, ValueError(), (), 1.0)
    least = next_delay(FOREVER, attempt, ValueError(), (), 0.0)
    assert (least, most) == (timedelta(seconds=wait / 2), timedelta(seconds=wait))


def test_a_wish_says_when() -> None:
    wish = TryAgain("rate limited", after=timedelta(minutes=5))
    assert next_delay(Retry(), 1, wish, (), 0.3) == timedelta(minutes=5)
    assert str(wish) == "rate limited"


def test_a_wish_without_a_time_waits_like_an_error() -> None:
    assert next_delay(Retry(), 3, TryAgain(), (), 0.3) == next_delay(Retry(), 3, ValueError(), (), 0.3)


@given(
    attempt=st.integers(1, 10**6),
    chance=st.floats(0, 1, exclude_max=True),
    first=st.timedeltas(timedelta(0), timedelta(days=1)),
    factor=st.floats(1, 1e6),
    ceiling=st.timedeltas(timedelta(0), timedelta(days=1)),
)
def test_no_wait_is_longer_than_the_ceiling(
    attempt: int, chance: float, first: timedelta, factor: float, ceiling: timedelta
) -> None:
    policy = Retry(attempts=None, first=first, factor=factor, ceiling=ceiling)
    wait = next_delay(policy, attempt, ValueError(), (), chance)
    assert wait is not None
    assert timedelta(0) <= wait <= ceiling


@pytest.mark.parametrize(
    "options",
    [{"attempts": 0}, {"attempts": -1}, {"first": timedelta(-1)}, {"ceiling": timedelta(-1)}, {"factor": 0.5}],
    ids=str,
)
def test_a_policy_that_makes_no_sense_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(ValueError):
        Retry(**options)  # pyright: ignore[reportArgumentType]  on purpose


def test_a_policy_is_a_value() -> None:
    assert Retry() == Retry(attempts=5)
    with pytest.raises(AttributeError):
        Retry().attempts = 3  # pyright: ignore[reportAttributeAccessIssue]  on purpose
