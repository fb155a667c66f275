"""Every client over every transport is asked with its server alive and killed at every place, or it is said why not."""

from __future__ import annotations

from importlib import import_module
from itertools import product
from typing import Any

import pytest

from tests.protocol.questions_table import CLIENTS, PLACES, TRANSPORTS, Client, Place, cell


def parameters_of(test: str) -> set[tuple[Any, ...]]:
    """What it runs with."""
    module, _, name = test.partition("::")
    function: Any = getattr(import_module(f"tests.protocol.{module}"), name)
    (mark,) = (mark for mark in function.pytestmark if mark.name == "parametrize")
    given = [getattr(each, "values", each) for each in mark.args[1]]
    return {each if isinstance(each, tuple) else (each,) for each in given}


@pytest.mark.parametrize(("client", "transport", "place"), list(product(CLIENTS, TRANSPORTS, PLACES)))
def test_each_cell_has_a_test_or_a_reason(client: Client, transport: str, place: Place) -> None:
    found = cell(client, transport, place)
    assert isinstance(found, str) or found.parameters in parameters_of(found.name)
