"""When a step is tried again: (policy, attempt, error) -> a delay, or stop."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta


class TryAgain(Exception):
    """Raised by a step that wants another attempt, `after` a while if given; it counts as an attempt."""

    def __init__(self, message: str = "", *, after: timedelta | None = None) -> None:
        super().__init__(message)
        self.after = after


@dataclass(frozen=True, slots=True, init=False)
class Retry:
    """How often and how soon a step is tried again.

    The n-th wait is `first * factor ** (n - 1)`, at most `ceiling`, and between half of that and all of it by chance.
    `attempts=None` goes on for ever. `only_on` names the errors that are worth another attempt, and beats the
    built-in list of those that are not; `give_up_on` beats both.
    """

    attempts: int | None
    first: timedelta
    factor: float
    ceiling: timedelta
    only_on: tuple[type[Exception], ...]
    give_up_on: tuple[type[Exception], ...]

    def __init__(
        self,
        *,
        attempts: int | None = 5,
        first: timedelta = timedelta(seconds=0.5),
        factor: float = 2,
        ceiling: timedelta = timedelta(seconds=60),
        only_on: tuple[type[Exception], ...] = (Exception,),
        give_up_on: tuple[type[Exception], ...] = (),
    ) -> None:
        if attempts is not None and attempts < 1:
            raise ValueError(f"attempts must be at least 1, or None to go on for ever; it is {attempts}")
        if first < timedelta(0) or ceiling < timedelta(0):
            raise ValueError("a wait cannot be negative")
        if factor < 1:
            raise ValueError(f"factor must be at least 1, or the waits would shrink; it is {factor}")
        for field, value in (
            ("attempts", attempts),
            ("first", first),
            ("factor", factor),
            ("ceiling", ceiling),
            ("only_on", only_on),
            ("give_up_on", give_up_on),
        ):
            object.__setattr__(self, field, value)


ONCE = Retry(attempts=1)


def next_delay(
    policy: Retry, attempt: int, error: Exception, useless: tuple[type[Exception], ...], chance: float
) -> timedelta | None:
    """How long to wait after the `attempt`-th attempt (from 1) ended in `error`; None is to stop.

    `useless` are errors that trying again cannot mend; `chance` is uniform in [0, 1).
    """
    if policy.attempts is not None and attempt >= policy.attempts:
        return None
    if isinstance(error, TryAgain):
        return error.after if error.after is not None else _backoff(policy, attempt, chance)
    if isinstance(error, policy.give_up_on) or not isinstance(error, policy.only_on):
        return None
    if policy.only_on == (Exception,) and isinstance(error, useless):
        return None
    return _backoff(policy, attempt, chance)


def _backoff(policy: Retry, attempt: int, chance: float) -> timedelta:
    try:
        wait = min(policy.first.total_seconds() * policy.factor ** (attempt - 1), policy.ceiling.total_seconds())
    except OverflowError:
        wait = policy.ceiling.total_seconds()
    return timedelta(seconds=wait * (0.5 + chance / 2))
