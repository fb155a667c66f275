"""docs/guarantees.md: every promise is there, and each names tests that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from mcp import Client

from perdure import DurableContext, DurableMCP

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "guarantees.md").read_text()

PROMISES = [
    "A step returned, and its outcome was recorded",
    "Crash while a step ran",
    "Store writes from a body",
    "A call was accepted",
    "Client gone, or its time-out",
    "The same `key`",
    "The same idempotency key sent by the same caller",
    "Signals and answers",
    "A notification in the sessions era",
    "Power loss",
    "Two processes on one file",
    "Code changed under a running call",
    "Disk full, file corrupt, schema newer than the code",
    "Bad arguments",
    "Another caller asks for a call",
]
"""The situations that perdure promises something for; one that is taken from the page is taken from its users."""

NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def sections() -> dict[str, str]:
    titles_and_texts = (part.partition("\n") for part in re.split(r"^## ", PAGE, flags=re.MULTILINE)[1:])
    return {title: text for title, _, text in titles_and_texts}


def names_in(file: Path) -> set[str]:
    tree = ast.parse(file.read_text())
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    return {function.name for function in functions if function.name.startswith("test_")}


def test_every_promise_is_on_the_page() -> None:
    assert list(sections()) == PROMISES


@pytest.mark.parametrize("promise", PROMISES)
def test_each_promise_names_tests_that_are_there(promise: str) -> None:
    named = NAMED.findall(sections()[promise])
    assert named
    missing = [f"{file}::{test}" for file, test in named if test not in names_in(ROOT / file)]
    assert missing == []


def test_every_line_of_a_list_is_a_test() -> None:
    bullets = [line for line in PAGE.splitlines() if line.startswith("- ")]
    assert [line for line in bullets if NAMED.fullmatch(line.removeprefix("- ")) is None] == []


async def test_bad_arguments_make_no_call() -> None:
    mcp = DurableMCP("shop", engine="memory:")

    @mcp.tool()
    async def order(count: int, ctx: DurableContext) -> str:
        return f"{count} ordered"

    @mcp.tool()
    async def pay(amount: int) -> str:
        return f"{amount} paid"

    async with Client(mcp) as client:
        for tool, arguments in (("order", {"count": "many"}), ("order", {}), ("pay", {"amount": "all"})):
            result = await client.call_tool(tool, arguments)
            assert result.is_error
            assert "validation error" in str(result.content)
        assert (await mcp.calls.find()).calls == []
