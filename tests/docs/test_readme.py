"""The README: its code is run, and its links lead somewhere, as do those of all pages."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from mcp import Client

from perdure.cli.target import find_server
from perdure.servers.standins.faults import Refuse, Schedule
from perdure.servers.standins.standin import Reply, Request, Standin

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", EXAMPLES, *sorted((ROOT / "docs").rglob("*.md"))]
SERVICE = "https://api.weather.gov"


def weather(asked: Request, url: str) -> Reply:
    if asked.path.startswith("/points/"):
        return Reply({"properties": {"forecast": f"{url}/forecast"}})
    return Reply({"properties": {"periods": [{"detailedForecast": "Clear."}]}})


async def test_the_first_screen_is_a_server_that_outlives_a_service_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = re.findall(r"^```python\n(.*?)^```$", (ROOT / "README.md").read_text(), re.DOTALL | re.MULTILINE)[0]
    assert SERVICE in code
    standin = Standin(weather, Schedule([("/points", [Refuse(503)]), ("/forecast", [Refuse(500)])]))
    monkeypatch.setenv("PERDURE_ENGINE", str(tmp_path / "weather.db"))
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    async with standin.listening():
        file = tmp_path / "first_screen.py"
        # As it is written, but for the service's address and the length of the pause.
        file.write_text(code.replace(SERVICE, standin.url).replace("seconds=10", "seconds=0.01"))
        try:
            async with Client(find_server(str(file))) as client:
                result: Any = await client.call_tool("get_forecast", {"latitude": 39.7456, "longitude": -97.0892})
        finally:
            sys.modules.pop("first_screen", None)
            sys.path.remove(str(tmp_path))
    assert result.structured_content == {"result": "Clear."}
    assert {path: (counts.received, counts.succeeded) for path, counts in standin.counts.items()} == {
        "/points/39.7456,-97.0892": (2, 1),
        "/forecast": (2, 1),
    }


@pytest.mark.parametrize("page", PAGES, ids=[str(page.relative_to(ROOT)) for page in PAGES])
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)", page.read_text())
    broken = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert broken == []


def test_every_example_is_listed_and_tested() -> None:
    listed = set(re.findall(r"\]\((\w+)\.py\)", EXAMPLES.read_text()))
    assert listed == {path.stem for path in (ROOT / "examples").glob("*.py")}
    tests = {path.stem for folder in ("examples", "protocol") for path in (ROOT / "tests" / folder).glob("test_*.py")}
    assert {f"test_{name}" for name in listed} - tests == set()
