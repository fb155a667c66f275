"""A model of the server's own, for `ctx.sample` where the client has none."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from mcp_types import (
    AudioContent,
    CreateMessageResult,
    ImageContent,
    ModelPreferences,
    SamplingMessage,
    StopReason,
    TextContent,
)

from perdure.core.retry import TryAgain
from perdure.errors import PerdureError

if TYPE_CHECKING:
    import httpx

TOO_MANY_REQUESTS = 429

STOP_REASONS: dict[str, StopReason] = {"stop": "endTurn", "length": "maxTokens", "tool_calls": "toolUse"}


class Sampler(Protocol):
    """Asked as a step: tried again when it raises, and its answer is recorded."""

    async def __call__(
        self,
        messages: Sequence[SamplingMessage],
        *,
        max_tokens: int,
        system_prompt: str | None,
        temperature: float | None,
        model_preferences: ModelPreferences | None,
    ) -> CreateMessageResult: ...


class OpenAISampler:
    """Any endpoint that speaks OpenAI's chat completions.

    `base_url` is what comes before `/chat/completions`. The key is read from `OPENAI_API_KEY` when none is given, at
    each request. `model` is used whatever the preferences say.
    """

    def __init__(
        self,
        model: str,
        *,
        base_url: str = "https://api.openai.com/v1",
        api_key: str | None = None,
        timeout: float = 120.0,
    ) -> None:
        self._model = model
        self._url = f"{base_url.rstrip('/')}/chat/completions"
        self._api_key = api_key
        self._timeout = timeout

    async def __call__(
        self,
        messages: Sequence[SamplingMessage],
        *,
        max_tokens: int,
        system_prompt: str | None,
        temperature: float | None,
        model_preferences: ModelPreferences | None,
    ) -> CreateMessageResult:
        body: dict[str, Any] = {
            "model": self._model,
            "max_tokens": max_tokens,
            "messages": [
                *([{"role": "system", "content": system_prompt}] if system_prompt else []),
                *({"role": message.role, "content": _parts(message)} for message in messages),
            ],
        }
        if temperature is not None:
            body["temperature"] = temperature
        import httpx  # a fifth of a second, which servers without a model need not spend

        async with httpx.AsyncClient(timeout=self._timeout) as http:
            reply = await http.post(self._url, json=body, headers=self._headers())
        return _result(_checked(reply).json())

    def _headers(self) -> dict[str, str]:
        key = self._api_key or os.environ.get("OPENAI_API_KEY")
        return {} if key is None else {"Authorization": f"Bearer {key}"}

    def __repr__(self) -> str:
        return f"OpenAISampler({self._model!r}, base_url={self._url.removesuffix('/chat/completions')!r})"


def _parts(message: SamplingMessage) -> list[dict[str, Any]]:
    return [_part(block) for block in message.content_as_list]


def _part(block: Any) -> dict[str, Any]:
    match block:
        case TextContent():
            return {"type": "text", "text": block.text}
        case ImageContent():
            return {"type": "image_url", "image_url": {"url": f"data:{block.mime_type};base64,{block.data}"}}
        case AudioContent():
            return {"type": "input_audio", "input_audio": {"data": block.data, "format": block.mime_type[6:]}}
        case _:
            raise PerdureError(f"A model cannot be sent {type(block).__name__} this way: use text, images or audio.")


def _checked(reply: httpx.Response) -> httpx.Response:
    """What may work later is tried again; what is refused is not."""
    if reply.is_success:
        return reply
    said = f"{reply.status_code} {reply.reason_phrase}: {reply.text[:500]}"
    if reply.status_code == TOO_MANY_REQUESTS or reply.is_server_error:
        raise TryAgain(said)
    raise PerdureError(f"The model's endpoint refused the request. {said}")


def _result(said: dict[str, Any]) -> CreateMessageResult:
    choice = said["choices"][0]
    reason: str | None = choice.get("finish_reason")
    return CreateMessageResult(
        role="assistant",
        content=TextContent(type="text", text=choice["message"].get("content") or ""),
        model=said.get("model", ""),
        stop_reason=None if reason is None else STOP_REASONS.get(reason, reason),
    )
