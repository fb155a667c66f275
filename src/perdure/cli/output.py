"""Where output goes: a terminal gets colours and its width, a pipe gets whole lines, a program gets JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any, TextIO, cast

from pydantic_core import to_jsonable_python
from rich.console import Console

from perdure.cli.problem import Problem

WHOLE_LINES = 240


def terminal() -> Console:
    """Made when it is used, because standard output may have been redirected since."""
    out = _output()
    if reconfigure := getattr(out, "reconfigure", None):
        reconfigure(errors="replace")  # what the output's encoding lacks is no reason to show nothing
    known = out.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, markup=False, width=None if known else WHOLE_LINES)


def quiet() -> None:
    """What the engine logs while a file is read is for those who serve it."""
    logging.getLogger("perdure").addHandler(logging.NullHandler())


def print_json(content: Any) -> None:
    """Whatever the output's encoding is; what is no number is null, because JSON has no word for it."""
    plain = to_jsonable_python(content, inf_nan_mode="null")
    print(json.dumps(plain, indent=2, allow_nan=False, ensure_ascii=_output().encoding.lower() != "utf-8"))


def _output() -> TextIO:
    if (out := cast("TextIO | None", sys.stdout)) is None:
        raise Problem("What it says cannot be written: standard output is closed.")
    return out
