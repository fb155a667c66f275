"""docs/testing.md: its tests are run as they are written, and they can fail."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.test_tutorial import FENCE, sections

PAGE = (Path(__file__).parents[2] / "docs" / "testing.md").read_text()


def run_tests(folder: Path, server: str) -> subprocess.CompletedProcess[str]:
    (folder / "trips.py").write_text(server)
    for found in FENCE.finditer(PAGE):
        (folder / found["file"]).write_text(found["text"])
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("PERDURE_", "PYTEST_"))}
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), "-o", "addopts="],
        cwd=folder,
        env={**environment, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=200,
    )


@pytest.mark.slow
def test_the_tests_of_the_page_pass(tmp_path: Path) -> None:
    run = run_tests(tmp_path, sections()[-1].files()["trips.py"])
    assert (run.returncode, "5 passed" in run.stdout) == (0, True), run.stdout + run.stderr


@pytest.mark.slow
def test_they_fail_for_a_server_that_books_before_it_was_approved(tmp_path: Path) -> None:
    server = sections()[-1].files()["trips.py"]
    wrong = server.replace("if not approved:", "if False:")
    assert wrong != server
    run = run_tests(tmp_path, wrong)
    assert "FAILED test_trips.py::test_a_trip_that_nobody_approves_fails_after_five_days" in run.stdout
