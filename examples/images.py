"""Images of a service that bills each one: asked for at most once, then waited for as long as it takes."""

from __future__ import annotations

import os
from datetime import timedelta

import httpx
from mcp.server.mcpserver import Image
from pydantic import BaseModel

from perdure import DurableContext, DurableMCP, OutcomeUnknown, Retry, StepFailed, ToolError, TryAgain, step

mcp = DurableMCP("images")


class Prediction(BaseModel):
    id: str
    status: str
    output: list[str] = []


def service() -> httpx.AsyncClient:
    return httpx.AsyncClient(
        base_url=os.environ.get("IMAGES_URL", "https://api.replicate.com"),
        headers={"Authorization": f"Bearer {os.environ['IMAGES_TOKEN']}"},
        timeout=60,
    )


# A connection that was refused proves that nothing was billed. Whatever else goes wrong may have cost something.
@step(at_most_once=True, retry=Retry(only_on=(httpx.ConnectError,)), timeout=timedelta(seconds=60))
async def begin(prompt: str, guidance: float) -> Prediction:
    async with service() as http:
        reply = await http.post("/v1/predictions", json={"input": {"prompt": prompt, "guidance": guidance}})
    if reply.status_code == 422:
        raise ToolError(f"The service refuses this prompt: {reply.json()['detail']}")
    return Prediction.model_validate(reply.raise_for_status().json())


@step(retry=Retry(attempts=None, ceiling=timedelta(seconds=30)))
async def finished(id: str) -> Prediction:
    async with service() as http:
        reply = await http.get(f"/v1/predictions/{id}")
    prediction = Prediction.model_validate(reply.raise_for_status().json())
    if prediction.status == "failed":
        raise ToolError("The service could not make this image.")
    if prediction.status != "succeeded":
        raise TryAgain(prediction.status, after=timedelta(seconds=float(os.environ.get("IMAGES_PAUSE", "2"))))
    return prediction


@step
async def download(path: str) -> bytes:
    async with service() as http:
        return (await http.get(path)).raise_for_status().content


@mcp.tool()
async def generate_image(prompt: str, ctx: DurableContext, guidance: float = 3.5) -> list[str | Image]:
    """Make an image of a text."""
    try:
        begun = await begin(prompt, guidance)
    except OutcomeUnknown:
        raise ToolError("An image may have been made and billed. Look at the account before asking again.") from None
    except StepFailed as failed:
        raise ToolError(f"The service did not take the order: {failed.message}") from failed
    await ctx.report_progress(1, 3, "ordered")
    done = await finished(begun.id)
    await ctx.report_progress(2, 3, "made")
    return [f"Image {done.id}:", Image(data=await download(done.output[0]), format="webp")]


if __name__ == "__main__":
    mcp.run()
