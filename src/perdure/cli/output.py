"""Where output goes: a terminal gets colours and its width, a pipe gets whole lines, a program gets JSON."""

from __future__ import annotations

import json
import logging
import os
import sys
from typing import Any

from rich.console import Console

WHOLE_LINES = 240


def terminal() -> Console:
    """Made when it is used, because standard output may have been redirected since."""
    known = sys.stdout.isatty() or "COLUMNS" in os.environ
    return Console(highlight=False, markup=False, width=None if known else WHOLE_LINES)


def quiet() -> None:
    """What the engine logs while a file is read is for those who serve it."""
    logging.getLogger("perdure").addHandler(logging.NullHandler())


def print_json(content: Any) -> None:
    print(json.dumps(content, indent=2, ensure_ascii=False))
