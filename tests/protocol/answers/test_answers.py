"""Every cell of the table in docs/clients.md, with real processes and sockets; those in which a server dies, it is
killed with SIGKILL.

What happens over one transport and at one place is tried at once: the cells of a scene share its servers.
"""

from __future__ import annotations

import pytest

from tests.protocol.answers.stories import Failures, Scene, play
from tests.protocol.answers.table import TESTED, Cell

Played = dict[Scene, Failures]


@pytest.fixture(scope="module")
def played() -> Played:
    return {}


def each_cell() -> list[object]:
    slow = pytest.mark.slow
    return [pytest.param(cell, id=str(cell), marks=() if cell.transport == "memory" else slow) for cell in TESTED]


@pytest.mark.parametrize("cell", each_cell())
async def test_a_client_gets_what_the_table_says(
    played: Played, cell: Cell, tmp_path_factory: pytest.TempPathFactory
) -> None:
    scene = Scene(cell.transport, cell.place)
    if scene not in played:
        played[scene] = await play(scene, tmp_path_factory.mktemp("answers"))
    if cell in played[scene]:
        raise played[scene][cell]
