from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncGenerator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from mcp import Client
from mcp_types import ImageContent, TextContent
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from examples.images import mcp
from perdure import Embedded
from tests.examples.service import Service, ask, listening, one_of

IMAGE = b"RIFF....WEBP"


@pytest.fixture
def slow() -> asyncio.Event:
    """Orders of something slow are taken, and answered when this is set."""
    return asyncio.Event()


@pytest.fixture
async def painter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, slow: asyncio.Event) -> AsyncGenerator[Service]:
    mcp.engine = Embedded(tmp_path / "images.db", grace=timedelta(0))

    async def take(request: Request) -> Response:
        prompt = (await request.json())["input"]["prompt"]
        if prompt == "something rude":
            return JSONResponse({"detail": "rude"}, 422)
        if prompt == "something slow":
            await slow.wait()
        return JSONResponse({"id": "p1", "status": "starting"})

    async def image(_: Request) -> Response:
        return Response(IMAGE, media_type="image/webp")

    progress = [{"id": "p1", "status": "processing"}, {"id": "p1", "status": "succeeded", "output": ["/files/p1"]}]
    answers: dict[tuple[str, str], Any] = {
        ("POST", "/v1/predictions"): take,
        ("GET", "/v1/predictions/p1"): one_of(progress),
        ("GET", "/files/p1"): image,
    }
    async with listening(Service(answers)) as service:
        monkeypatch.setenv("IMAGES_URL", service.url)
        monkeypatch.setenv("IMAGES_TOKEN", "secret")
        monkeypatch.setenv("IMAGES_PAUSE", "0.01")
        yield service
        slow.set()


async def test_an_image_is_ordered_once_and_waited_for(painter: Service) -> None:
    painter.before["files"] = [503]
    async with Client(mcp) as client:
        result = await client.call_tool("generate_image", {"prompt": "a lighthouse"})
    text, image = result.content
    assert isinstance(text, TextContent)
    assert isinstance(image, ImageContent)
    assert (text.text, image.mime_type, base64.b64decode(image.data)) == ("Image p1:", "image/webp", IMAGE)
    assert painter.done == {"POST v1": 1, "GET v1": 2, "GET files": 1}


async def test_an_order_whose_answer_is_lost_is_not_repeated(painter: Service) -> None:
    painter.after["v1"] = [500]
    async with Client(mcp) as client:
        assert "did not take the order" in await ask(client, "generate_image", prompt="a lighthouse")
    assert painter.asked == {"POST v1": 1}


async def test_an_order_that_a_restart_interrupts_is_not_repeated(painter: Service) -> None:
    async with mcp.serving(), Client(mcp) as client:
        asking = asyncio.create_task(ask(client, "generate_image", prompt="something slow"))
        async with asyncio.timeout(20):
            while not painter.asked:
                await asyncio.sleep(0.01)
        asking.cancel()
        await asyncio.wait({asking})
    async with Client(mcp) as client:
        assert "may have been made and billed" in await ask(client, "generate_image", prompt="something slow")
    assert painter.asked == {"POST v1": 1}


async def test_a_refused_prompt_is_told(painter: Service) -> None:
    async with Client(mcp) as client:
        assert "refuses this prompt: rude" in await ask(client, "generate_image", prompt="something rude")
