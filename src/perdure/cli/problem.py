"""How a command fails: one line on stderr, and exit code 1."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager

import typer

from perdure.errors import PerdureError


class Problem(Exception):
    """What the person at the terminal can mend; the message says how."""


@contextmanager
def reported() -> Generator[None]:
    try:
        yield
    except (Problem, PerdureError) as problem:
        print(f"perdure: {problem}", file=sys.stderr)
        raise typer.Exit(1) from None
