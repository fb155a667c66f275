"""What a client gets of a call, over each transport and wherever the server is killed: the table of docs/clients.md.

Its first row is here twice: a request may ask before it has become a task, and after.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Literal, get_args

from tests.protocol.wired import Era

Row = Literal[
    "stateless with Tasks",
    "stateless with Tasks, in time",
    "stateless",
    "sessions with `params.task`",
    "sessions",
    "cannot be asked",
]
Transport = Literal["stdio", "sse", "json", "bare", "memory"]
"""Over HTTP with streams, with JSON responses, and with `stateless_http`."""
Place = Literal["nowhere", "between question and answer", "between answer and result", "between result and reply"]
Kind = Literal["none", "form", "url", "sampling"]
"""What its call asks."""

ROWS: tuple[Row, ...] = get_args(Row)
ERAS: tuple[Era, ...] = get_args(Era)
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
PLACES: tuple[Place, ...] = get_args(Place)
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Cell:
    row: Row
    era: Era
    transport: Transport
    place: Place
    kind: Kind

    def __str__(self) -> str:
        return "-".join((self.transport, self.place, self.row, self.era, self.kind)).replace(" ", "_").replace("`", "")


@dataclass(frozen=True)
class Fate:
    """What its client sees; its call ends as it would have, and what it does is done once."""

    questions: int
    """How often the client is asked."""


@dataclass(frozen=True)
class NotThere:
    """Nothing to test, and why."""

    reason: str


ERAS_OF: dict[Row, tuple[Era, ...]] = {
    "stateless with Tasks": ("stateless",),
    "stateless with Tasks, in time": ("stateless",),
    "stateless": ("stateless",),
    "sessions with `params.task`": ("sessions",),
    "sessions": ("sessions",),
    "cannot be asked": ("sessions", "stateless"),
}

OTHER_ERA = "a client is named after its era, and is not of the other one"
NO_DEATH = "a server in memory dies with its client"
NO_QUESTION = "nothing is asked"
NO_DIFFERENCE = "without a question it is like any client of its era"
NO_WAY_BACK = "over HTTP with JSON responses or `stateless_http` no client of a session can be asked: the last row"
ONLY_SESSIONS = "`stateless_http` changes nothing for clients of 2026-07-28"


def fate(cell: Cell) -> Fate | NotThere:
    if cell.era not in ERAS_OF[cell.row]:
        return NotThere(OTHER_ERA)
    if (cell.era, cell.transport) == ("stateless", "bare"):
        return NotThere(ONLY_SESSIONS)
    if cell.transport == "memory" and cell.place != "nowhere":
        return NotThere(NO_DEATH)
    if cell.kind == "none":
        return _unasked(cell)
    if cell.row == "cannot be asked":
        return Fate(0)
    if not has_way_back(cell.era, cell.transport):
        return NotThere(NO_WAY_BACK)
    return Fate(2 if cell.place == "between question and answer" else 1)


def has_way_back(era: Era, transport: Transport) -> bool:
    """Whether a client can be asked at all, whatever it declares."""
    return era == "stateless" or transport not in ("json", "bare")


def _unasked(cell: Cell) -> Fate | NotThere:
    if cell.place == "between question and answer":
        return NotThere(NO_QUESTION)
    return NotThere(NO_DIFFERENCE) if cell.row == "cannot be asked" else Fate(0)


# What is tried together comes together: workers of pytest-xdist are given neighbours.
CELLS = [
    Cell(row, era, transport, place, kind)
    for transport, place, row, era, kind in product(TRANSPORTS, PLACES, ROWS, ERAS, KINDS)
]

TESTED = [cell for cell in CELLS if isinstance(fate(cell), Fate)]


def reasons() -> list[str]:
    """Why cells are missing, each once."""
    return sorted({found.reason for found in map(fate, CELLS) if isinstance(found, NotThere)})


# --- the document's tables ------------------------------------------------------------------------

_TRANSPORTS: dict[Transport, str] = {
    "stdio": "stdio",
    "sse": "HTTP, SSE",
    "json": "HTTP, JSON",
    "bare": "HTTP, `stateless_http`",
    "memory": "memory",
}

_PLACES: dict[Place, str] = {
    "nowhere": "never",
    "between question and answer": "between question and answer",
    "between answer and result": "between answer and result",
    "between result and reply": "after the result, before the reply",
}

_TIMES = {0: "is not asked", 1: "is asked once", 2: "is asked again"}


def transports_markdown() -> str:
    lines = [_line("client", *_TRANSPORTS.values()), "|" + " --- |" * (1 + len(TRANSPORTS))]
    for row in ROWS:
        lines.append(_line(row, *(_over(row, transport) for transport in TRANSPORTS)))
    return "\n".join(lines)


def _over(row: Row, transport: Transport) -> str:
    cells = [Cell(row, era, transport, "nowhere", "form") for era in ERAS_OF[row]]
    return next(("is asked" if found.questions else "others answer" for found in _fates(cells)), "–")


def places_markdown() -> str:
    """Each transport and kind of question has the same."""
    lines = [_line("client", *_PLACES.values()), "|" + " --- |" * (1 + len(PLACES))]
    for row in ROWS:
        lines.append(_line(row, *(_killed(row, place) for place in PLACES)))
    return "\n".join(lines)


def _killed(row: Row, place: Place) -> str:
    cells = [cell for cell in CELLS if (cell.row, cell.place) == (row, place) and cell.kind != "none"]
    (found,) = set(_fates(cells))
    return _TIMES[found.questions]


def _fates(cells: Iterable[Cell]) -> list[Fate]:
    return [found for found in map(fate, cells) if isinstance(found, Fate)]


def _line(*columns: str) -> str:
    return "| " + " | ".join(columns) + " |"
