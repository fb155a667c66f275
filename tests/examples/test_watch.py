from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import timedelta

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from examples.watch import mcp, pages, stop
from perdure.testing import trial
from tests.examples.service import Service, listening


@pytest.fixture
async def site(monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Service]:
    """A page that is another one each time."""
    asked = 0

    async def page(_: Request) -> Response:
        nonlocal asked
        asked += 1
        return PlainTextResponse(f"edition {asked}")

    async with listening(Service({("GET", "/news"): page})) as service:
        monkeypatch.setenv("PAGES_URL", service.url)
        yield service


async def test_a_page_is_followed_until_it_is_stopped_with_a_journal_that_stays_short(site: Service) -> None:
    async with trial(mcp) as t:
        call = await t.start("follow", {"path": "/news"})
        for _ in range(8):
            await t.advance(timedelta(minutes=5))
            await t.crash()
        await t.settle()
        assert (await t.calls.get(call.id)).text == "8 changes"
        assert len(await t.calls.timeline(call.id)) < 10
        await t.calls.signal(call.id, stop, True)
        result = await call.result()
    assert result == "/news changed 8 times."


async def test_all_pages_are_looked_at_every_hour_without_anybody_who_asks(site: Service) -> None:
    async with trial(mcp) as t:
        await pages.set("/news", "what it was")
        await t.advance(timedelta(hours=3))
        looks = (await t.calls.find(tool="look_at_all", status="completed")).calls
        assert [look.result for look in looks] == [["/news"]] * 3
