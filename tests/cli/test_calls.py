from __future__ import annotations

import asyncio
import json
import os
import shlex
import sqlite3
import subprocess
import sys
from contextlib import closing
from itertools import combinations
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perdure.cli.app import app
from perdure.datafile import data_folder
from tests.cli import shop
from tests.cli.commands import ROOT, ended, finish, perdure, read_json, start, worker

SHOP = Path(shop.__file__)


@pytest.fixture(autouse=True)
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "shop.db"
    monkeypatch.setenv("PERDURE_ENGINE", str(path))
    return path


def test_calls_are_listed_the_newest_first() -> None:
    first, second = finish("offer", item="tea"), start("order", item="cake")

    listed = perdure("calls")
    table = [line.split()[:2] for line in listed.stdout.splitlines()]

    assert listed.exit_code == 0
    assert table == [["id", "tool"], [second[:8], "order"], [first[:8], "offer"]]
    assert [call["id"] for call in read_json("calls")["calls"]] == [second, first]


def test_calls_are_chosen_by_tool_and_status() -> None:
    done, failed, waiting = finish("offer", item="tea"), finish("offer", item="nothing"), start("order", item="cake")

    def listed(*options: str) -> list[str]:
        return [call["id"] for call in read_json("calls", *options)["calls"]]

    assert listed("--tool", "offer") == [failed, done]
    assert listed("--status", "completed") == [done]
    assert listed("--status", "failed", "--tool", "order") == []
    assert listed("--limit", "1") == [waiting]


def test_a_page_says_how_to_go_on() -> None:
    ids = [start("order", item=str(n)) for n in range(3)]

    page = read_json("calls", "--limit", "2")
    rest = read_json("calls", "--limit", "2", "--after", page["next"])

    assert [call["id"] for call in page["calls"] + rest["calls"]] == ids[::-1]
    assert rest["next"] is None
    assert f"--after {page['next']}" in perdure("calls", "--limit", "2").stdout


def test_a_call_is_shown_with_its_timeline_and_its_result() -> None:
    call = finish("offer", item="tea")

    page = perdure("call", call).stdout
    record = read_json("call", call)

    assert page.startswith("offer  completed")
    assert "tea for 3" in page
    assert record["key"] == "offer-tea"
    assert record["result"]["content"][0]["text"] == "tea for 3"
    assert [(entry["kind"], entry["name"]) for entry in record["timeline"]] == [
        ("started", record["timeline"][0]["name"]),
        ("step", "price"),
        ("completed", ""),
    ]
    assert record["timeline"][1]["attempts"] == 1


def test_what_is_no_number_is_null_in_json() -> None:
    call = finish("weigh")

    assert "NaN" not in perdure("call", call, "--json").stdout
    assert read_json("call", call)["result"] == [1.5, None, None]


def test_output_of_any_encoding_shows_what_it_can_and_json_all_of_it() -> None:
    call = finish("offer", item="thé")
    narrow = CliRunner(charset="ascii")

    listed, shown, record = (
        narrow.invoke(app, arguments) for arguments in (["calls"], ["call", call], ["call", call, "--json"])
    )

    assert "offer-th?" in listed.stdout
    assert "th? for 3" in shown.stdout
    assert json.loads(record.stdout)["key"] == "offer-thé"


def test_a_failed_call_says_what_went_wrong() -> None:
    call = finish("offer", item="nothing")

    record = read_json("call", call)

    assert record["status"] == "failed"
    assert "We do not sell nothing." in record["error"]
    assert "We do not sell nothing." in perdure("call", call).stdout


def test_the_beginning_of_an_id_is_enough_where_it_is_one_calls() -> None:
    call, _ = start("order", item="tea"), start("order", item="cake")

    assert read_json("call", call[:10])["id"] == call


def test_an_id_that_begins_several_calls_is_refused_with_their_ids() -> None:
    calls = [start("order", item="tea") for _ in range(17)]  # two of which begin with the same digit
    first, second = next((a, b) for a, b in combinations(calls, 2) if a[0] == b[0])

    refused = perdure("call", first[0])

    assert refused.exit_code == 1
    assert first in refused.stderr
    assert second in refused.stderr


@pytest.mark.parametrize("command", [["call"], ["cancel"], ["signal"], ["answer"], ["retry"], ["release"]])
def test_an_empty_id_is_not_the_only_call(command: list[str]) -> None:
    call = start("order", item="tea")

    refused = perdure(*command, "", *(["decision", "true"] if command == ["signal"] else []))

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr.startswith("perdure: The id is empty.")
    assert read_json("call", call)["status"] == "running"


@pytest.mark.parametrize("command", [["call"], ["cancel"], ["retry"], ["release"]])
def test_an_unknown_call_is_one_line_on_stderr(command: list[str]) -> None:
    start("order", item="tea")

    refused = perdure(*command, "f" * 32)

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert refused.stderr == f"perdure: There is no call {'f' * 32}.\n"


def test_a_signal_reaches_a_call_that_another_process_runs(file: Path) -> None:
    call = start("order", item="cake")
    with worker(file):
        sent = perdure("signal", call, "decision", "true")
        record = ended(call)

    assert sent.exit_code == 0, sent.output
    assert record["result"]["content"][0]["text"] == "ordered for 4"


def test_a_negative_number_is_a_value_and_no_option() -> None:
    call = start("order", item="cake")

    refused = perdure("signal", call, "decision", "-1")

    assert refused.exit_code == 1
    assert "-1 is not of type 'boolean'" in refused.stderr


def test_a_signal_that_the_call_does_not_take_is_refused() -> None:
    call = start("order", item="cake")

    unknown = perdure("signal", call, "decisions", "true")
    of_another_type = perdure("signal", call, "decision", '"perhaps"')

    assert (unknown.exit_code, of_another_type.exit_code) == (1, 1)
    assert "It takes: decision." in unknown.stderr
    assert "does not take this value" in of_another_type.stderr


def test_a_second_decision_is_refused() -> None:
    call = start("order", item="cake")

    assert perdure("signal", call, "decision", "true").exit_code == 0
    refused = perdure("signal", call, "decision", "false").stderr
    assert refused == f"perdure: 'decision' of call {call} has been decided already; the call is running.\n"


def asking(tool: str) -> str:
    """A call of the shop that has asked, and that nobody runs."""

    async def run() -> str:
        shop.mcp.engine = os.environ["PERDURE_ENGINE"]
        async with shop.mcp.serving():
            call = await shop.mcp.calls.start(tool, {})
            async with asyncio.timeout(20):
                async for view in shop.mcp.calls.watch(call.id):
                    if view.questions:
                        return call.id
            raise AssertionError("it asks nothing")

    return asyncio.run(run())


def test_a_question_is_shown_with_its_fields_and_the_way_to_answer() -> None:
    call = asking("wrap")

    page, asked = perdure("call", call).stdout, perdure("answer", call)

    for shown in (page, asked.stdout):
        assert "Is it a gift?" in shown
        assert ["wrapped", "boolean", "In", "paper"] in [line.split() for line in shown.splitlines()]
        assert ["card", "string", "optional"] in [line.split() for line in shown.splitlines()]
        assert f"perdure answer {call}" in shown
    assert asked.exit_code == 0


@pytest.mark.parametrize(
    ("tool", "arguments", "result"),
    [
        ("wrap", ['{"wrapped": true, "card": "to you"}'], "True to you"),
        ("wrap", ['{"wrapped": false}', "--question", "gift"], "False "),
        ("wrap", ["--decline"], "decline"),
        ("wrap", ["--dismiss"], "cancel"),
        ("praise", ["It is good."], "It is good."),
        ("sign_in", [], "accept"),
    ],
)
def test_an_answer_reaches_a_call_that_another_process_runs(
    file: Path, tool: str, arguments: list[str], result: str
) -> None:
    call = asking(tool)
    with worker(file):
        answered = perdure("answer", call, *arguments)
        record = ended(call)

    assert answered.exit_code == 0, answered.output
    assert record["result"]["content"][0]["text"] == result


def test_an_answer_that_does_not_fit_is_refused() -> None:
    call = asking("wrap")

    assert "does not take this value" in perdure("answer", call, '{"wrapped": "perhaps"}').stderr
    assert "asks no question" in perdure("answer", call, "{}", "--question", "gifts").stderr
    assert perdure("answer", call, "{}", "--decline").exit_code == 2


@pytest.mark.parametrize("value", ["yes", "true", '"yes"', "[]", "{wrapped: true}"])
def test_an_answer_that_is_no_form_is_refused_with_one_that_fits(value: str) -> None:
    call = asking("wrap")

    refused = perdure("answer", call, value)
    (line,) = refused.stderr.splitlines()
    *_, example = shlex.split(line.partition("fits: ")[2])

    assert refused.exit_code == 1
    assert line.startswith(f"perdure: {value} ")
    assert json.loads(example) == {"wrapped": True, "card": ""}
    assert perdure("answer", call, example).exit_code == 0


def test_a_second_answer_is_refused() -> None:
    call = asking("wrap")

    assert perdure("answer", call, "--decline").exit_code == 0
    assert "decided already" in perdure("answer", call, "--decline", "--question", "gift").stderr


def test_what_is_no_json_is_a_wrong_use() -> None:
    assert perdure("signal", start("order", item="cake"), "decision", "yes").exit_code == 2


def test_a_cancelled_call_ends_with_its_reason(file: Path) -> None:
    call = start("order", item="cake")
    with worker(file):
        assert perdure("cancel", call, "--reason", "sold out").exit_code == 0
        record = ended(call)

    assert record["status"] == "cancelled"
    assert "sold out" in str(record)


def test_a_failed_call_is_retried_as_a_new_one() -> None:
    call = finish("offer", item="nothing")

    said = perdure("retry", call).stdout
    newest = read_json("calls")["calls"][0]["id"]

    assert newest != call
    assert said == f"Call {newest} was started in its place.\n"


def test_a_completed_call_is_not_retried() -> None:
    refused = perdure("retry", finish("offer", item="tea"))

    assert refused.exit_code == 1
    assert refused.stderr.startswith("perdure: ")


def test_a_call_is_released_for_another_process() -> None:
    call = start("order", item="cake")

    assert perdure("release", call).stdout == f"Call {call} is free for another process.\n"


# --- which file -----------------------------------------------------------------------------------


def test_without_a_name_every_file_of_the_data_folder_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    folder = data_folder()
    ids: list[str] = []
    for server in ("shop", "annex"):
        monkeypatch.setenv("PERDURE_ENGINE", str(folder / f"{server}.db"))
        ids.append(start("order", item="tea"))
    monkeypatch.delenv("PERDURE_ENGINE")

    assert [call["id"] for call in read_json("calls")["calls"]] == ids[::-1]
    assert [call["id"] for call in read_json("calls", "--server", "shop")["calls"]] == ids[:1]
    assert read_json("call", ids[0])["engine"] == str(folder / "shop.db")
    assert "annex" in perdure("calls").stdout
    assert perdure("calls", "--after", "x").exit_code == 1


@pytest.mark.parametrize("spoil", ["DROP TABLE questions", "PRAGMA user_version = 1000"])
def test_a_file_that_cannot_be_read_does_not_hide_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: str
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    annex, shop = (data_folder() / f"{server}.db" for server in ("annex", "shop"))
    for path in (annex, shop):
        monkeypatch.setenv("PERDURE_ENGINE", str(path))
        call = start("order", item="tea")
    _spoil(annex, spoil)
    monkeypatch.delenv("PERDURE_ENGINE")

    listed, shown, named = perdure("calls"), perdure("call", call[:10]), perdure("calls", "--server", "annex")

    assert (listed.exit_code, shown.exit_code, named.exit_code) == (0, 0, 1)
    assert call[:8] in listed.stdout
    assert call in shown.stdout
    for result in (listed, shown):
        [warning] = result.stderr.splitlines()
        assert warning.startswith(f"perdure: annex.db is left out: {annex} ")
    assert named.stdout == ""
    assert named.stderr.startswith(f"perdure: {annex} ")

    _spoil(shop, spoil)
    nothing = perdure("calls")
    assert (nothing.exit_code, nothing.stdout) == (1, "")
    assert nothing.stderr.endswith(f"perdure: None of the 2 files in {data_folder()} can be read.\n")


def _spoil(file: Path, how: str) -> None:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute(how)


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        (["--engine", "nowhere.db"], "nowhere.db, which --engine stands for"),
        (["--engine", "memory:"], "gone with its process"),
        (["--engine", "temporal://host/default"], "Temporal"),
        (["--server", "nobody"], "nobody.db, which --server nobody stands for"),
        ([], "shop.db, which PERDURE_ENGINE stands for"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_line_on_stderr(options: list[str], problem: str) -> None:
    refused = perdure("calls", *options)

    assert (refused.exit_code, refused.stdout) == (1, "")
    assert problem in refused.stderr
    assert len(refused.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    "command", [["calls"], ["call", "0" * 32], ["run"], ["run", "--http", "0"], ["worker"]], ids=" ".join
)
def test_a_file_of_a_newer_version_is_refused_by_commands_and_servers(command: list[str], file: Path) -> None:
    start("order", item="tea")
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA user_version = 1000")
    if command[0] in ("run", "worker"):
        command = [command[0], str(SHOP), *command[1:]]

    process = subprocess.run(
        [sys.executable, "-m", "perdure.cli", *command],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=30,
    )

    assert (process.returncode, process.stdout) == (1, "")
    # A server has logged where it keeps its calls before.
    problem = process.stderr.splitlines()[-1]
    assert problem.startswith(f"perdure: {file} has schema 1000")
    assert "Upgrade perdure" in problem
    assert "Traceback" not in process.stderr


def test_a_file_of_another_kind_is_one_line_on_stderr(tmp_path: Path) -> None:
    (tmp_path / "notes.db").write_text("not a database, " * 1000)

    refused = perdure("calls", "--engine", str(tmp_path / "notes.db"))

    assert refused.exit_code == 1
    assert len(refused.stderr.splitlines()) == 1


def test_one_file_is_named_in_one_way() -> None:
    assert perdure("calls", "--engine", "a.db", "--server", "b").exit_code == 2
