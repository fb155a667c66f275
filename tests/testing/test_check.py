"""`perdure check`: what becomes of each function after a crash, and what looks wrong in it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from perdure.cli.app import app
from tests.testing import invoice, suspicious


def check(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["check", *arguments])


@pytest.fixture(scope="module")
def checked() -> dict[str, dict[str, Any]]:
    result = check("tests.testing.suspicious", "--json")
    assert result.exit_code == 0, result.output
    return {each["name"]: each for each in json.loads(result.stdout)}


def test_it_finds_each_line_that_is_wrong_and_no_other(checked: dict[str, dict[str, Any]]) -> None:
    lines = Path(suspicious.__file__).read_text().splitlines()
    wrong = {number for number, line in enumerate(lines, 1) if "  # !" in line}
    found: set[int] = {finding["line"] for each in checked.values() for finding in each["findings"]}
    assert found == wrong
    assert len(wrong) > 35


@pytest.mark.parametrize(
    ("tool", "what", "remedy"),
    [
        ("clocks", "time.time()", "ctx.now()"),
        ("clocks", "time.sleep()", "ctx.sleep"),
        ("chances", "uuid.uuid4()", "ctx.uuid4()"),
        ("chances", "random.random()", "ctx.random"),
        ("effects", "httpx.get()", "@step"),
        ("effects", "os.environ", "read it in a step"),
        ("effects", "asyncio.to_thread()", "@step"),
        ("shared_state", "cache['x']", "mcp.store"),
        ("orders", "for … in set(CITIES)", "sorted"),
        ("orders", "asyncio.as_completed()", "asyncio.create_task"),
        ("orders", "step 'unannotated'", "-> …"),
        ("indirectly", "time.time()", "ctx.now()"),
        ("steps_without_a_context", "fetch", "give the tool a ctx"),
    ],
)
def test_it_says_what_to_do(checked: dict[str, dict[str, Any]], tool: str, what: str, remedy: str) -> None:
    assert any(each["what"] == what and remedy in each["remedy"] for each in checked[tool]["findings"])


@pytest.mark.parametrize(
    ("name", "what", "kind", "after", "key", "shared"),
    [
        ("clocks", "tool", "body", "goes on where it was", None, False),
        ("steps_without_a_context", "tool", "whole step", "OutcomeUnknown", None, False),
        ("again", "tool", "whole step", "runs again", "x-{url}", True),
        ("look", "tool", "ordinary", "is lost", None, False),
        ("keyed", "tool", "body", "goes on where it was", "computed", False),
        ("indirectly", "job", "body", "goes on where it was", None, False),
        ("greeting", "prompt", "ordinary", "is lost", None, False),
        ("note://{name}", "resource", "body", "goes on where it was", None, False),
    ],
)
def test_it_says_what_is_promised(
    checked: dict[str, dict[str, Any]], name: str, what: str, kind: str, after: str, key: str | None, shared: bool
) -> None:
    found = checked[name]
    assert (found["what"], found["kind"], found["key"], found["shared"]) == (what, kind, key, shared)
    assert after in found["after_a_crash"]


def test_people_get_a_table_and_the_lines() -> None:
    result = check("tests.testing.suspicious")
    assert result.exit_code == 0
    rows = {line.split()[0]: line for line in result.stdout.splitlines() if line}
    assert "x-{url} (shared)" in rows["again"]
    assert "runs again, from its start" in rows["again"]
    assert any("suspicious.py" in row and row.endswith("use ctx.now()") for row in result.stdout.splitlines())
    assert "places look wrong." in result.stdout


def test_what_comes_with_perdure_is_left_out() -> None:
    result = check("invoice", "--json")
    assert result.exit_code == 0, result.output
    names = {each["name"] for each in json.loads(result.stdout)}
    assert not names & {"check_calls", "await_calls", "cancel_call", "answer_call"}
    assert names


def test_only_strictness_makes_it_fail() -> None:
    assert check("tests.testing.suspicious", "--strict").exit_code == 1
    assert check("tests.testing.suspicious", "--strict", "--json").exit_code == 1


@pytest.mark.parametrize("server", ["weather", invoice.__name__])
def test_a_server_in_which_nothing_looks_wrong_passes(server: str) -> None:
    result = check(server, "--strict")
    assert result.exit_code == 0, result.stdout
    assert "Nothing looks wrong." in result.stdout


def test_a_server_that_is_not_there_is_said_in_one_line() -> None:
    result = check("nowhere")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
