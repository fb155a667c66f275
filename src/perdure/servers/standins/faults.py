"""What goes wrong with a request: the faults, and how a schedule of them is written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Slow:
    """The right answer, late; what it changes is changed at once."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Refuse:
    """An error status; `retry_after` is the header as it is sent."""

    status: int
    retry_after: str | None = None


@dataclass(frozen=True, slots=True)
class Cut:
    """The connection breaks in the middle of the answer; what was asked is done."""


@dataclass(frozen=True, slots=True)
class Down:
    """Nothing is done, the connection breaks, and for so long nobody listens: connections are refused."""

    seconds: float


Fault = Slow | Refuse | Cut | Down


class Schedule:
    """Which request meets which fault: the n-th under a prefix the n-th fault, those after them none."""

    def __init__(self, faults: Iterable[tuple[str, Iterable[Fault | None]]] = ()) -> None:
        self._faults = [(prefix, iter(each)) for prefix, each in faults]

    def next(self, path: str) -> Fault | None:
        for prefix, faults in self._faults:
            if path.startswith(prefix):
                for fault in faults:
                    return fault
        return None


def by_chance(
    seed: int, faults: Sequence[Fault] = (Refuse(503), Cut(), Slow(0.1)), share: float = 0.4
) -> Iterator[Fault | None]:
    """Faults without an end, the same ones for the same seed; `share` is how many of the requests meet one."""
    random = Random(seed)
    while True:
        yield random.choice(faults) if random.random() < share else None


def parse_faults(text: str) -> tuple[str, list[Fault | None]]:
    """`/points=503,slow:0.5,ok,429:2,cut,down:3`: a prefix, and what its requests meet, one after the other."""
    prefix, equals, faults = text.partition("=")
    if not (prefix.startswith("/") and equals):
        raise ValueError(f"{text!r} is not like /points=503,slow:0.5")
    return prefix, [_fault(each.strip()) for each in faults.split(",")]


def _fault(text: str) -> Fault | None:
    kind, _, value = text.partition(":")
    match kind:
        case "ok":
            return None
        case "cut":
            return Cut()
        case "slow":
            return Slow(float(value))
        case "down":
            return Down(float(value))
        case status if status.isdecimal() and 400 <= int(status) <= 599:
            return Refuse(int(status), value or None)
        case _:
            raise ValueError(
                f"{text!r} is no fault; there are ok, cut, slow:SECONDS, down:SECONDS and 503 or 429:SECONDS"
            )
