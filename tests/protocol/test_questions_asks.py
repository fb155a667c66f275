"""What a client can be asked, by what it declared."""

from __future__ import annotations

from typing import Any

import pytest
from mcp_types import ClientCapabilities

from perdure.protocol.questions import asks_of


@pytest.mark.parametrize(
    ("declared", "asks"),
    [
        ({}, set[str]()),
        ({"elicitation": {}}, {"form"}),
        ({"elicitation": {"form": {}}}, {"form"}),
        ({"elicitation": {"url": {}}}, {"url"}),
        ({"elicitation": {"form": {}, "url": {}}}, {"form", "url"}),
        ({"sampling": {}}, {"sampling"}),
        ({"sampling": {}, "elicitation": {}, "roots": {}}, {"form", "sampling"}),
    ],
)
def test_a_client_is_asked_for_what_it_declared(declared: dict[str, Any], asks: set[str]) -> None:
    assert asks_of(ClientCapabilities.model_validate(declared)) == asks


def test_one_that_declared_nothing_is_asked_nothing() -> None:
    assert asks_of(None) == frozenset()
