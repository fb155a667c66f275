"""What becomes of a call when its client goes, row by row: the table of docs/callers.md, which tests run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tests.protocol.wired import Era, Transport

Fate = Literal["goes on", "cancelled", "answered"]
"""Goes on: detached, and the next identical request of the same caller gets its one outcome. Cancelled: the call ends
as cancelled. Answered: nothing was heard, so the request waits on and gets its answer."""

Happening = Literal[
    "the client disconnects",
    "it times out",
    "its caller gives up",
    "it cancels with a reason of its own",
    "it cancels without a reason",
    "it deletes its session",
    "the handler is cancelled",
]


@dataclass(frozen=True)
class Column:
    transport: Transport
    era: Era

    def __str__(self) -> str:
        return f"{self.transport}-{self.era}"


COLUMNS = tuple(
    Column(transport, era) for transport in ("stdio", "sse", "json", "memory") for era in ("sessions", "stateless")
)


def hears(column: Column) -> bool:
    """Whether `notifications/cancelled` reaches the server."""
    return column.era == "sessions" or column.transport == "stdio"


@dataclass(frozen=True)
class Cell:
    """The fate of a call by what its tool says of disconnects."""

    when_continue: Fate
    when_cancel: Fate

    def __str__(self) -> str:
        if self.when_continue == self.when_cancel:
            return self.when_continue
        return f"{self.when_continue} / {self.when_cancel}"


@dataclass(frozen=True)
class NotThere:
    """Nothing to test, and why."""

    reason: str

    def __str__(self) -> str:
        return "–"


Row = dict[Column, Cell | NotThere]

LEFT = Cell("goes on", "cancelled")
STOPPED = Cell("cancelled", "cancelled")
KEPT = Cell("goes on", "goes on")
UNHEARD = Cell("answered", "answered")


def everywhere(cell: Cell) -> Row:
    return dict.fromkeys(COLUMNS, cell)


def where_heard(cell: Cell) -> Row:
    """Over HTTP a stateless client cancels by closing the stream, whatever its reason."""
    unheard = {column: UNHEARD if column.transport == "memory" else LEFT for column in COLUMNS}
    return {column: cell if hears(column) else unheard[column] for column in COLUMNS}


def with_sessions(cell: Cell) -> Row:
    row: Row = {}
    for column in COLUMNS:
        if column.transport not in ("sse", "json"):
            row[column] = NotThere(
                "only over HTTP has a session a name of its own; elsewhere its end is the connection's"
            )
        elif column.era == "stateless":
            row[column] = NotThere("this era has no sessions")
        else:
            row[column] = cell
    return row


def in_memory(there: Cell, elsewhere: Cell) -> Row:
    return {column: there if column.transport == "memory" else elsewhere for column in COLUMNS}


TABLE: dict[Happening, Row] = {
    "the client disconnects": everywhere(LEFT),
    "it times out": everywhere(LEFT),
    "its caller gives up": everywhere(LEFT),
    "it cancels with a reason of its own": where_heard(STOPPED),
    "it cancels without a reason": where_heard(LEFT),
    "it deletes its session": with_sessions(LEFT),
    # In memory a client leaves by cancelling the handler, so that the two look the same.
    "the handler is cancelled": in_memory(LEFT, elsewhere=KEPT),
}

_TITLES: dict[Transport, str] = {"stdio": "stdio", "sse": "HTTP, SSE", "json": "HTTP, JSON", "memory": "memory"}


def markdown() -> str:
    """The table as the document has it."""
    heads = [f"{_TITLES[column.transport]}<br>{column.era}" for column in COLUMNS]
    lines = ["| what happens | " + " | ".join(heads) + " |", "|" + " --- |" * (len(heads) + 1)]
    lines += [f"| {what} | " + " | ".join(str(row[column]) for column in COLUMNS) + " |" for what, row in TABLE.items()]
    return "\n".join(lines)


def reasons() -> dict[tuple[Happening, Column], str]:
    return {
        (what, column): cell.reason
        for what, row in TABLE.items()
        for column, cell in row.items()
        if isinstance(cell, NotThere)
    }
