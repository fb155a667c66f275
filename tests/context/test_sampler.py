"""A model behind an endpoint that speaks OpenAI's chat completions, over real HTTP."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from mcp_types import ImageContent, SamplingMessage, TextContent

from perdure import OpenAISampler, PerdureError, TryAgain
from perdure.servers.standins.standin import Reply, Request, Standin

SAID = {
    "model": "small-1",
    "choices": [{"message": {"role": "assistant", "content": "short"}, "finish_reason": "length"}],
}


def endpoint(reply: Callable[[], Reply], heard: list[Any]) -> Standin:
    def answer(asked: Request, _: str) -> Reply:
        heard.append((asked.method, asked.path, asked.headers.get("authorization"), json.loads(asked.content)))
        return reply()

    return Standin(answer)


async def ask(standin: Standin, **options: Any) -> Any:
    sampler = OpenAISampler("small", base_url=f"{standin.url}/v1/", **options)
    message = SamplingMessage(
        role="user",
        content=[
            TextContent(type="text", text="What is this?"),
            ImageContent(type="image", data="aGk=", mime_type="image/png"),
        ],
    )
    return await sampler([message], max_tokens=7, system_prompt="Be brief", temperature=0.5, model_preferences=None)


async def test_it_is_asked_as_its_protocol_says(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    heard: list[Any] = []
    standin = endpoint(lambda: Reply(SAID), heard)
    async with standin.listening():
        result = await ask(standin)
    assert (result.content.text, result.model, result.stop_reason) == ("short", "small-1", "maxTokens")
    ((method, path, authorization, body),) = heard
    assert (method, path, authorization) == ("POST", "/v1/chat/completions", "Bearer secret")
    assert body == {
        "model": "small",
        "max_tokens": 7,
        "temperature": 0.5,
        "messages": [
            {"role": "system", "content": "Be brief"},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "What is this?"},
                    {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
                ],
            },
        ],
    }


@pytest.mark.parametrize(
    ("status", "error"), [(429, TryAgain), (503, TryAgain), (400, PerdureError), (401, PerdureError)]
)
async def test_what_may_work_later_is_tried_again_and_what_is_refused_is_not(
    status: int, error: type[Exception]
) -> None:
    standin = endpoint(lambda: Reply({"error": "no"}, status), [])
    async with standin.listening():
        with pytest.raises(error, match=str(status)):
            await ask(standin, api_key="mine")
