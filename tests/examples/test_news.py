from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import CreateMessageResult, ElicitResult, TextContent
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response

from examples.news import mcp
from perdure import Embedded
from tests.examples.service import Service, ask, listening


@pytest.fixture
async def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncGenerator[Service]:
    mcp.engine = Embedded(tmp_path / "news.db")

    async def search(request: Request) -> Response:
        base = str(request.base_url)
        hits = [{"title": f"{request.query_params['query']} {n}", "url": f"{base}story/{n}"} for n in range(2)]
        return JSONResponse({"hits": hits})

    async def story(request: Request) -> Response:
        return PlainTextResponse(f"All about {request.url.path}")

    answers: dict[tuple[str, str], Any] = {
        ("GET", "/api/v1/search"): search,
        ("GET", "/story/0"): story,
        ("GET", "/story/1"): story,
    }
    async with listening(Service(answers)) as service:
        monkeypatch.setenv("NEWS_URL", service.url)
        yield service


class Reader:
    """A client with a person and a model."""

    def __init__(self, **answer: Any) -> None:
        self.answer = ElicitResult.model_validate(answer)
        self.asked: list[str] = []

    async def elicited(self, context: Any, params: Any) -> ElicitResult:
        self.asked.append(params.message)
        return self.answer

    async def sampled(self, context: Any, params: Any) -> CreateMessageResult:
        text = params.messages[0].content.text.splitlines()[-1]
        return CreateMessageResult(role="assistant", content=TextContent(type="text", text=f"({text})"), model="mine")

    def client(self, mode: Any) -> Client:
        return Client(mcp, mode=mode, elicitation_callback=self.elicited, sampling_callback=self.sampled)


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_the_reader_is_asked_for_a_topic_once_and_its_model_for_each_story(site: Service, mode: Any) -> None:
    reader = Reader(action="accept", content={"topic": "python"})
    async with reader.client(mode) as client:
        first = await ask(client, "latest_stories")
        again = await ask(client, "latest_stories")
    assert first == "python 0: (All about /story/0)\npython 1: (All about /story/1)"
    assert again == first
    assert reader.asked == ["Which topic?"]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
async def test_who_wants_no_topic_gets_no_news(site: Service, mode: Any) -> None:
    reader = Reader(action="decline")
    async with reader.client(mode) as client:
        assert await ask(client, "latest_stories") == "No topic, no news."
    assert site.done == {}
