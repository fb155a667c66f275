"""Journals that released versions wrote replay with the code of today, in every process and on every Python."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import pytest

from perdure.core.codec import decode_event
from perdure.core.codec.events import KINDS
from tests.histories.replay import histories, replayed

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("path", histories(), ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_journal_that_is_kept_replays_to_its_end(path: Path) -> None:
    assert list(replayed(path)) == []


@pytest.mark.parametrize("seed", ["1", "2", "3"])
def test_the_journals_that_are_kept_replay_with_another_hash_seed(seed: str) -> None:
    environment = os.environ | {"PYTHONHASHSEED": seed}
    command = [sys.executable, "-m", "tests.histories.replay"]
    replay = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert (replay.returncode, replay.stdout.strip()) == (0, ""), replay.stderr


def test_the_journals_that_are_kept_have_every_kind_of_event() -> None:
    events = [event for path in histories() for event in json.loads(path.read_text())["events"]]
    kept = {type(decode_event(b64decode(event))) for event in events}
    assert set(KINDS.values()) - kept == set()
