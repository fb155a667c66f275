"""The command line, `perdure`. Importing it imports none of it."""

from __future__ import annotations

import time

STARTED = time.monotonic()
"""When this process began, as far as its user is concerned: the demo's limit counts its imports, too."""


def main() -> None:
    from perdure.cli.app import app

    app(prog_name="perdure")
