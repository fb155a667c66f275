"""fastmcp-tasks, which tasks are measured against: in a virtual environment of its own, being no dependency of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from bench.child import ROOT

NEEDS = Path(__file__).with_name("rival.txt")
HOME = ROOT / ".tools" / "rival"


def rival_python() -> Path:
    """Its interpreter, of the same version as ours; what it needs is installed when that has changed."""
    python, installed = HOME / "bin" / "python", HOME / "installed.txt"
    if not installed.exists() or installed.read_bytes() != NEEDS.read_bytes():
        uv = _uv()
        _run(uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(HOME))
        _run(uv, "pip", "sync", "--quiet", "--python", str(python), str(NEEDS))
        shutil.copyfile(NEEDS, installed)
    return python


def rival_version() -> str:
    return next(line.strip() for line in NEEDS.read_text().splitlines() if line.startswith("fastmcp-tasks=="))


def _uv() -> str:
    """The one that the Makefile has installed, else any."""
    ours = sorted(ROOT.glob(".tools/uv-*/bin/uv"))
    found = str(ours[-1]) if ours else shutil.which("uv")
    if found is None:
        raise RuntimeError("The rival is installed with uv: run `make bench` rather than `python -m bench`")
    return found


def _run(*command: str) -> None:
    subprocess.run(command, check=True)
