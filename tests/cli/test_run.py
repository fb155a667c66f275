"""Servers as they are run: real processes, real signals."""

from __future__ import annotations

import asyncio
import re
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from itertools import product
from pathlib import Path

import pytest
from mcp import Client, StdioServerParameters
from mcp_types import TextContent

from tests.cli.commands import ROOT, ended, finish, perdure, read_json, start, worker

PERDURE = [sys.executable, "-m", "perdure.cli"]

UNSTEADY = """
import itertools
from perdure import DurableContext, DurableMCP, step
mcp = DurableMCP("unsteady")
lives = itertools.count()

@step
async def one() -> int:
    return 1

@mcp.tool()
async def unsteady(ctx: DurableContext) -> int:
    return await one() + next(lives)
"""


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shop.db"
    monkeypatch.setenv("PERDURE_ENGINE", str(path))
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    return path


@contextmanager
def running(*arguments: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """`perdure run … --http 0`, and the address that it says."""
    command = [*PERDURE, "run", *arguments, "--http", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        yield process, line_with(process, r"http://127\.0\.0\.1:\d+")
    finally:
        process.kill()
        process.communicate()


def line_with(process: subprocess.Popen[str], pattern: str) -> str:
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if found := re.search(pattern, line):
            return found[0]
    pytest.fail(f"{pattern} was never said: {said}")


def ask(address: str, tool: str, /, **arguments: object) -> str:
    async def asked() -> str:
        async with Client(f"{address}/mcp") as client:
            result = await client.call_tool(tool, arguments)
        return "\n".join(block.text for block in result.content if isinstance(block, TextContent))

    return asyncio.run(asked())


async def test_a_server_runs_over_stdio() -> None:
    server = StdioServerParameters(command=sys.executable, args=["-m", "perdure.cli", "run", "weather"])
    async with Client(server) as client:
        tools = (await client.list_tools()).tools

    assert [tool.name for tool in tools] == ["get_alerts", "get_forecast"]


def test_a_server_runs_over_http_and_ends_on_sigterm() -> None:
    with running("tests.cli.shop") as (process, address):
        said = ask(address, "offer", item="tea")
        process.send_signal(signal.SIGTERM)
        code = process.wait(timeout=15)

    assert (said, code) == ("tea for 3", 0)
    assert read_json("calls")["calls"][0]["status"] == "completed"


def test_the_engine_that_is_named_beats_the_servers_own_and_the_environments(tmp_path: Path) -> None:
    server = tmp_path / "own_shop.py"
    server.write_text(
        "from perdure import DurableContext, DurableMCP\n"
        f"mcp = DurableMCP('own', engine={str(tmp_path / 'own.db')!r})\n"
        "@mcp.tool()\n"
        "async def greet(ctx: DurableContext) -> str:\n"
        "    return 'hello'\n"
    )
    named = tmp_path / "named.db"
    with running(str(server), "--engine", str(named)) as (_, address):
        assert ask(address, "greet") == "hello"

    assert [call["tool"] for call in read_json("calls", "--engine", str(named))["calls"]] == ["greet"]
    assert not (tmp_path / "own.db").exists()


def test_in_development_a_body_that_does_not_replay_is_found_in_a_file_of_its_own(tmp_path: Path) -> None:
    server = tmp_path / "unsteady.py"
    server.write_text(UNSTEADY)
    with running(str(server), "--dev") as (process, address):
        ask(address, "unsteady")
        line_with(process, "replay")

    assert [call["tool"] for call in read_json("calls", "--server", "unsteady-dev")["calls"]] == ["unsteady"]
    assert not (tmp_path / "shop.db").exists()


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_lets_its_calls_go_when_it_is_told_to_end(sent: signal.Signals, file: Path) -> None:
    call = start("order", item="cake")
    with worker(file) as first:
        first.send_signal(sent)
        code = first.wait(timeout=15)
    with worker(file):
        assert perdure("signal", call, "decision", "false").exit_code == 0
        record = ended(call)

    assert code == 0
    assert record["result"]["content"][0]["text"] == "not ordered"
    assert [entry["kind"] for entry in record["timeline"]].count("step") == 1


def test_a_port_that_is_taken_is_one_line_on_stderr() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        refused = subprocess.run(
            [*PERDURE, "run", "tests.cli.shop", "--http", port], capture_output=True, text=True, timeout=60, cwd=ROOT
        )

    assert refused.returncode == 1
    assert refused.stderr.splitlines()[-1].startswith(f"perdure: Cannot listen on 127.0.0.1, port {port}")
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize("command", [["run", "weather"], ["run", "weather", "--http", "0"], ["worker", "weather"]])
def test_a_file_that_cannot_be_used_is_one_line_on_stderr(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, " * 1000)
    refused = subprocess.run(
        [*PERDURE, *command, "--engine", str(tmp_path / "notes.db")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert (refused.returncode, refused.stdout) == (1, "")
    assert "no database of perdure" in refused.stderr.splitlines()[-1]
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run", "weather", "--http", "0", "--host", "192.0.2.1"], "Cannot listen on 192.0.2.1"),
        (["run", "nothing"], "nothing is no server"),
        (["worker", "nothing.py"], "There is no file"),
        (["run", "weather", "--engine", "temporal://host/default"], "Temporal"),
        (["worker", "weather", "--engine", "sqlite:///a.db?speed=high"], "no setting 'speed'"),
    ],
)
def test_what_cannot_run_is_one_line_on_stderr(arguments: list[str], problem: str) -> None:
    refused = perdure(*arguments)

    assert refused.exit_code == 1
    assert problem in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


# --- the command line itself ----------------------------------------------------------------------

INTERRUPTED_AT = """
import atexit, signal, sys
from perdure.cli import main
moment = sys.argv.pop(1)

def hear(event, args):
    if event == "import" and args[0] == moment:
        signal.raise_signal(signal.SIGINT)

if moment == "end":
    atexit.register(signal.raise_signal, signal.SIGINT)
signal.signal(signal.SIGINT, signal.default_int_handler)  # whatever ignores it around the tests
sys.addaudithook(hear)
main()
"""
TELLS_OF_IT = """
import signal
try:
    signal.raise_signal(signal.SIGINT)
except KeyboardInterrupt as error:
    raise RuntimeError("what is built here cannot be built") from error  # as pydantic does with a model's schema
"""


@pytest.mark.parametrize(
    ("moment", "command"),
    [
        ("typer", ["calls"]),
        ("perdure.cli.app", ["run", "weather"]),
        ("perdure.cli.files", ["calls"]),
        ("pydantic", ["worker", "weather"]),
        ("perdure.servers.nws", ["run", "weather"]),
        ("while it is read", ["run", "server.py"]),
        ("while it is read", ["check", "server.py"]),
        ("end", ["--version"]),
    ],
)
def test_ctrl_c_ends_a_command_without_a_traceback_at_any_moment(
    moment: str, command: list[str], tmp_path: Path
) -> None:
    (tmp_path / "server.py").write_text(TELLS_OF_IT)
    ended = subprocess.run(
        [sys.executable, "-c", INTERRUPTED_AT, moment, *command],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=tmp_path,
    )

    assert (ended.returncode, ended.stderr) == (130, "")


@pytest.mark.parametrize(
    ("command", "redirected"),
    [
        *product(["calls", "calls --json", "check tests.cli.shop"], [">/dev/full", ">&-"]),
        ("--version", ">/dev/full"),
        ("--help", ">/dev/full"),
    ],
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_is_one_line_on_stderr(
    command: str, redirected: str, unbuffered: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUNBUFFERED", unbuffered)
    start("order", item="tea")
    told = in_shell(f"{command} {redirected}")

    assert told.returncode == 1
    assert re.fullmatch("perdure: What it says cannot be written: .*\n", told.stderr)


def test_who_reads_a_part_of_the_output_is_told_nothing() -> None:
    start("order", item="tea")
    told = in_shell("calls --json | true")

    assert (told.stdout, told.stderr) == ("", "")


def in_shell(command: str) -> subprocess.CompletedProcess[str]:
    """`perdure` as it is typed."""
    typed = f"{shlex.join(PERDURE)} {command}"
    return subprocess.run(typed, shell=True, capture_output=True, text=True, timeout=60, cwd=ROOT)


def test_importing_the_command_line_imports_nothing_of_it() -> None:
    script = "import sys, perdure.cli; print(*sys.modules)"
    imported = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()

    assert "perdure.cli" in imported
    assert not {"typer", "rich", "mcp", "pydantic", "perdure.engine"} & set(imported)


def test_asking_for_help_imports_no_server() -> None:
    script = "import sys\nfrom perdure.cli import main\ntry: main()\nexcept SystemExit: print(*sys.modules)"
    helped = subprocess.run([sys.executable, "-c", script, "--help"], capture_output=True, text=True, check=True).stdout

    for command in ("run", "worker", "demo", "calls", "call", "cancel", "signal", "retry", "release"):
        assert re.search(rf"\b{command} ", helped)
    assert not {"mcp", "pydantic", "perdure.engine"} & set(helped.split())


def test_the_version_is_said() -> None:
    assert re.fullmatch(r"perdure \d+\.\d+\.\d+\n", perdure("--version").stdout)


@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["call"], ["calls", "--status", "lost"], ["calls", "--limit", "0"], ["run", "weather", "--http", "x"]],
)
def test_a_wrong_use_is_exit_code_2(arguments: list[str]) -> None:
    assert perdure(*arguments).exit_code == 2


def test_output_has_no_colours_where_nobody_sees_them() -> None:
    call = finish("offer", item="tea")

    for output in (perdure("calls").stdout, perdure("call", call).stdout):
        assert "\x1b" not in output
