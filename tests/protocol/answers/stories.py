"""How the cells of the table are tried: many at once on one server, which is killed when all are where it is to be."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path

from mcp import Client

from tests.protocol.answers.guests import Guest, Kept, guest_of
from tests.protocol.answers.house import House, house_of
from tests.protocol.answers.person import EXPECTED, Person
from tests.protocol.answers.table import TESTED, Cell, Fate, Place, Row, Transport, fate
from tests.protocol.asking import BOUND
from tests.protocol.wired import Era

STARTING = 2
"""Servers over stdio that are up at the same time: each starts as slowly as Python does."""

Story = Callable[[House, Guest], Awaitable[None]]
Failures = dict[Cell, BaseException]


# --- the story of a cell --------------------------------------------------------------------------


async def until_there(house: House, guest: Guest) -> None:
    """From its request to the place where its server is killed."""
    await guest.send()
    if guest.cell.kind != "none":
        await guest.until_asked()
        if guest.cell.place == "between question and answer":
            return
        await guest.answer("ann")
    await guest.wait()
    if guest.cell.place == "between answer and result":
        await house.effect("works", guest.token)
    else:
        await house.effect("holds", guest.about)


async def from_there(house: House, guest: Guest) -> None:
    """It comes back to another server. Where Ann has answered, Mallory tries to."""
    await guest.send()
    if guest.cell.place == "between question and answer":
        await guest.until_asked()
        await guest.answer("ann")
    elif guest.cell.kind != "none":
        await guest.answer("mallory")
    await _gets_its_result(house, guest)


async def all_of_it(house: House, guest: Guest) -> None:
    await guest.send()
    if guest.cell.kind != "none":
        await guest.until_asked()
        await guest.answer("ann")
    await _gets_its_result(house, guest)


async def _gets_its_result(house: House, guest: Guest) -> None:
    cell, token = guest.cell, guest.token
    assert await guest.result() == f"{token}: {EXPECTED[cell.kind]}"
    assert Fate(guest.person.asked[token]) == fate(cell)
    # A step that was interrupted runs again, and nothing else does.
    works = 2 if cell.place == "between answer and result" else 1
    done = [verb for verb in house.effects(token) if verb != "holds"]
    assert done == ["begins", *["works"] * works, "done"]


# --- many at once ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    transport: Transport
    place: Place

    def __str__(self) -> str:
        return f"{self.transport}, {self.place}"

    def lines(self) -> list[Line]:
        cells = [cell for cell in TESTED if (cell.transport, cell.place) == (self.transport, self.place)]
        return [Line(*client, list(group)) for client, group in groupby(cells, lambda cell: (cell.row, cell.era))]


@dataclass
class Line:
    """One client over the lives of its server, and what it has of each of its cells."""

    row: Row
    era: Era
    cells: list[Cell]
    failures: dict[Cell, BaseException] = field(default_factory=dict[Cell, BaseException])
    is_there: asyncio.Event = field(default_factory=asyncio.Event)
    _person: Person = field(default_factory=Person)
    _kept: dict[Cell, Kept] = field(default_factory=dict[Cell, Kept])

    async def live(self, house: House, story: Story, leave: asyncio.Event) -> None:
        """Stays until it may leave, once all its cells have come to the end of their story."""
        guests: list[Guest] = []
        try:
            async with house.client(self.row, self.era, self._person) as client:
                guests += [self._guest(house, client, cell) for cell in self.cells if cell not in self.failures]
                await asyncio.gather(*(self._try(house, guest, story) for guest in guests))
                self.is_there.set()
                await leave.wait()
        except (Exception, asyncio.CancelledError) as error:
            if not house.is_dying:
                self.failures |= dict.fromkeys(self.cells, error)
        finally:
            self.is_there.set()
            await asyncio.gather(*(guest.leave() for guest in guests))

    def _guest(self, house: House, client: Client, cell: Cell) -> Guest:
        return guest_of(cell)(cell, str(cell), client, self._person, house, self._kept.setdefault(cell, Kept()))

    async def _try(self, house: House, guest: Guest, story: Story) -> None:
        try:
            await story(house, guest)
        except Exception as error:
            self.failures[guest.cell] = error


async def play(scene: Scene, folder: Path) -> Failures:
    """What went wrong, by cell. Over stdio each client has a server of its own, else all have the same."""
    lines = scene.lines()
    if scene.transport != "stdio":
        await _play(scene, lines, folder)
    else:
        starting = asyncio.Semaphore(STARTING)

        async def alone(number: int, line: Line) -> None:
            async with starting:
                (own := folder / str(number)).mkdir()
                await _play(scene, [line], own)

        await asyncio.gather(*(alone(number, line) for number, line in enumerate(lines)))
    return {cell: error for line in lines for cell, error in line.failures.items()}


async def _play(scene: Scene, lines: list[Line], folder: Path) -> None:
    async with house_of(folder, scene.transport) as house:
        if scene.place == "nowhere":
            await _live(house, lines, all_of_it)
            return
        house.hold("work" if scene.place == "between answer and result" else "reply")
        await _live_and_die(house, lines)
        house.release()
        await _live(house, lines, from_there)


async def _live(house: House, lines: list[Line], story: Story) -> None:
    at_once = asyncio.Event()
    at_once.set()
    async with house.life():
        await asyncio.gather(*(line.live(house, story, at_once) for line in lines))


async def _live_and_die(house: House, lines: list[Line]) -> None:
    async with house.life():
        living = [asyncio.create_task(line.live(house, until_there, house.killed)) for line in lines]
        await asyncio.gather(*(line.is_there.wait() for line in lines))
        await house.kill()
        async with asyncio.timeout(BOUND):
            await asyncio.gather(*living)
