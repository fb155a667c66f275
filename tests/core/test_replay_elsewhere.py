"""What one process recorded replays in another: other addresses, another hash seed, another Python."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.core.bodies import ALL
from tests.core.recorded import KEPT, differences, record, write

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_a_journal_replays_in_another_process_with_another_hash_seed(tmp_path: Path, hash_seed: str) -> None:
    journals = tmp_path / "journals.jsonl"
    write(journals, record(range(int(hash_seed), int(hash_seed) + 5)))
    replayed = subprocess.run(
        [sys.executable, "-m", "tests.core.recorded", "replay", str(journals)],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (replayed.returncode, replayed.stdout.strip(), replayed.stderr) == (0, "", "")


@pytest.mark.parametrize("name", [main.__name__ for main in ALL])
def test_a_journal_that_was_recorded_on_3_11_replays_on_this_python(name: str) -> None:
    assert differences(KEPT / f"{name}.jsonl") == []


def test_a_journal_that_does_not_fit_is_found(tmp_path: Path) -> None:
    [first, *_] = record([1], [ALL[1]])
    first.asked[0] = []
    write(tmp_path / "journals.jsonl", [first])
    assert len(differences(tmp_path / "journals.jsonl")) == 1
