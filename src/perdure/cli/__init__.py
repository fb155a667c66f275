"""The command line, `perdure`. Importing it imports none of it."""

from __future__ import annotations

import sys
import time

STARTED = time.monotonic()
"""When this process began, as far as its user is concerned: the demo's limit counts its imports, too."""


def main() -> None:
    try:
        from perdure.cli.ending import ending_well

        with ending_well():
            from perdure.cli.app import app

            app(prog_name="perdure")
    except KeyboardInterrupt:
        sys.exit(130)
