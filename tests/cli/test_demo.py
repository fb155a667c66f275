"""The demo as it is run: real processes, real HTTP, a real SIGKILL."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "perdure.cli", "demo"]

pytestmark = pytest.mark.slow


def test_the_demo_ends_well_and_says_what_it_saw(tmp_path: Path) -> None:
    ended = subprocess.run(DEMO, capture_output=True, text=True, timeout=60, cwd=tmp_path)

    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert ended.stderr == ""
    assert ended.stdout.count("✓") == 8
    assert "✗" not in ended.stdout
    assert re.search(r"kill -9 \d+", ended.stdout)
    assert "Temperature: 41°F" in ended.stdout
    assert "and 4 more periods" in ended.stdout
    assert re.search(r"/points/39\.7456,-97\.0892 +2 +1 +0 *\n", ended.stdout)
    assert re.search(r"/gridpoints/TOP/32,81/forecast +[2-9] +1 +0 *\n", ended.stdout)
    assert_ended(ended.stdout)


def test_the_demo_fails_when_a_request_is_sent_again_after_it_had_succeeded(tmp_path: Path) -> None:
    forgetful = Path(__file__).with_name("forgetful_weather.py")
    ended = subprocess.run(
        [*DEMO, "--server", str(forgetful)], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )

    assert ended.returncode == 1, ended.stdout + ended.stderr
    assert "✗ Each upstream request succeeded exactly once." in ended.stdout
    assert "✗ None was sent after it had succeeded." in ended.stdout
    assert "✓ Both requests were one call." in ended.stdout
    assert_ended(ended.stdout)


def test_the_demo_says_why_its_server_does_not_start(tmp_path: Path) -> None:
    ended = subprocess.run([*DEMO, "--server", "nothing.py"], capture_output=True, text=True, timeout=60, cwd=tmp_path)

    assert ended.returncode == 1
    assert "There is no file" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert_ended(ended.stdout)


@pytest.mark.parametrize("sent", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_leaves_no_process_behind(sent: signal.Signals, tmp_path: Path) -> None:
    with started_demo(tmp_path) as demo:
        told = lines_until(demo, "A client asks")
        demo.send_signal(sent)
        rest, problem = demo.communicate(timeout=20)

    assert demo.returncode not in (0, None)
    assert "Traceback" not in problem
    assert len(pids(told + rest)) >= 2
    assert_ended(told + rest)


@contextmanager
def started_demo(folder: Path) -> Generator[subprocess.Popen[str]]:
    # A session of its own: the signal reaches the demo alone, as with `kill`, and not its children.
    demo = subprocess.Popen(
        DEMO,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
        start_new_session=True,
    )
    try:
        yield demo
    finally:
        demo.kill()
        demo.communicate()


def lines_until(process: subprocess.Popen[str], text: str) -> str:
    assert process.stdout is not None
    told = ""
    for line in process.stdout:
        told += line
        if text in line:
            return told
    pytest.fail(f"{text!r} was never said: {told}")


def pids(told: str) -> list[int]:
    return [int(pid) for pid in re.findall(r"process (\d+)", told)]


def assert_ended(told: str) -> None:
    """The demo has waited for its children, so they are gone when it is, without a moment in between."""
    for pid in pids(told):
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
