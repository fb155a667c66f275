from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path

import pytest

from perdure import DurableMCP
from perdure.cli.problem import Problem
from perdure.cli.target import find_server
from perdure.servers import weather
from tests.cli import shop


@pytest.fixture(autouse=True)
def imports_are_undone() -> Generator[None]:
    modules, path = dict(sys.modules), list(sys.path)
    yield
    for name in sys.modules.keys() - modules.keys():
        del sys.modules[name]
    sys.path[:] = path


def write(folder: Path, name: str, *lines: str) -> str:
    (folder / name).write_text("\n".join(["from perdure import DurableMCP", *lines]))
    return str(folder / name)


def test_a_shipped_server_is_found_by_its_name() -> None:
    assert find_server("weather") is weather.mcp


def test_a_module_and_an_object_in_it_are_found() -> None:
    assert find_server("tests.cli.shop:mcp") is shop.mcp
    assert find_server("tests.cli.shop") is shop.mcp


def test_a_file_is_imported_under_its_own_name_beside_its_neighbours(tmp_path: Path) -> None:
    write(tmp_path, "stock.py", "ITEMS = ['tea']")
    file = write(tmp_path, "tea_shop.py", "import stock", "server = DurableMCP(stock.ITEMS[0])", "who = __name__")

    assert find_server(file).name == "tea"
    assert sys.modules["tea_shop"].who == "tea_shop"


def test_of_several_servers_mcp_is_meant_or_the_one_that_is_named(tmp_path: Path) -> None:
    file = write(tmp_path, "both_of.py", "a, mcp = DurableMCP('a'), DurableMCP('b')", "class app: inner = a")

    assert find_server(file).name == "b"
    del sys.modules["both_of"]
    assert find_server(f"{file}:app.inner").name == "a"


def test_two_names_of_one_server_are_one_server(tmp_path: Path) -> None:
    assert find_server(write(tmp_path, "twice_named.py", "a = b = DurableMCP('a')")).name == "a"


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["a, b = DurableMCP('a'), DurableMCP('b')"], r"several servers; name one: .*:a, .*:b"),
        (["x = 1"], "has no DurableMCP"),
        (["from mcp.server.mcpserver import MCPServer", "mcp = MCPServer('a')"], "write DurableMCP in its place"),
    ],
)
def test_a_file_without_one_server_is_refused(lines: list[str], problem: str, tmp_path: Path) -> None:
    with pytest.raises(Problem, match=problem):
        find_server(write(tmp_path, "unclear_server.py", *lines))


@pytest.mark.parametrize(
    ("target", "problem"),
    [
        ("whether", r"no module, and none that ships \(weather, climate, invoice\)"),
        ("nowhere.server:mcp", "is no server"),
        ("missing.py", "There is no file"),
        ("tests.cli.shop:till", "has no till"),
        ("tests.cli.shop:price", "is a Step, not a DurableMCP"),
    ],
)
def test_what_cannot_be_found_is_said(target: str, problem: str) -> None:
    with pytest.raises(Problem, match=problem):
        find_server(target)


def test_a_file_may_not_take_the_place_of_another_module(tmp_path: Path) -> None:
    with pytest.raises(Problem, match="Rename the file"):
        find_server(write(tmp_path, "json.py", "mcp = DurableMCP('a')"))


def test_an_import_that_fails_inside_the_server_is_its_authors_to_see(tmp_path: Path) -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_thing"):
        find_server(write(tmp_path, "broken_server.py", "import no_such_thing"))


def test_what_is_found_is_a_durable_server() -> None:
    assert isinstance(find_server("weather"), DurableMCP)
