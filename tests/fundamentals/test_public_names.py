"""What `perdure` exports, and what importing it costs."""

import subprocess
import sys
from importlib import import_module

import pytest

import perdure


@pytest.mark.parametrize("name", perdure.__all__)
def test_every_public_name_is_there(name: str) -> None:
    value = getattr(perdure, name)
    assert name in dir(perdure)
    assert value is getattr(perdure, name)


def test_what_is_not_public_is_not_there() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sqlite'"):
        getattr(perdure, "Sqlite")  # noqa: B009 - a type checker refuses the other spelling, rightly


def test_step_is_the_decorator_and_not_the_module_of_that_name() -> None:
    module = import_module("perdure.step")
    assert perdure.step is module.step


@pytest.mark.parametrize("unwanted", ["mcp", "pydantic", "sqlite3", "starlette"])
def test_importing_perdure_imports_nothing_that_is_not_used_yet(unwanted: str) -> None:
    program = f"import sys, perdure; sys.exit({unwanted!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


@pytest.mark.parametrize("unwanted", ["httpx", "rich", "typer"])
def test_what_a_server_uses_imports_no_client_and_no_command_line(unwanted: str) -> None:
    program = f"import sys; from perdure import DurableContext, DurableMCP, step; sys.exit({unwanted!r} in sys.modules)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
