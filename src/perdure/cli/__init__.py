"""The command line, `perdure`. Importing it imports none of it."""

from __future__ import annotations


def main() -> None:
    from perdure.cli.app import app

    app(prog_name="perdure")
