"""A durable server in a web application: who asks is what a header says, and a route approves what waits.

    uvicorn mounted:app --timeout-graceful-shutdown 5

With one's own uvicorn a call is let go when the lifespan ends, which is after all requests: hence the time-out.
"""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse
from starlette.routing import Mount, Route

from perdure import CallNotFound, DurableContext, DurableMCP, PerdureError, Principal, Signal

USERS = {"token-of-ann": "ann", "token-of-bob": "bob"}  # yours are somewhere safe


def who(connection: HTTPConnection) -> Principal | None:
    token = connection.headers.get("authorization", "").removeprefix("Bearer ")
    return Principal(USERS[token]) if token in USERS else None


mcp = DurableMCP("orders", principal=who)
approval = Signal("approval", bool, once=True)


@mcp.tool(key="order-{number}", signals=[approval])
async def order(number: int, ctx: DurableContext) -> str:
    """Order something that somebody has to approve."""
    await ctx.set_status("waits for approval")
    if not await ctx.receive(approval):
        return f"Order {number} was turned down."
    return f"Order {number} of {ctx.principal.subject if ctx.principal else 'nobody'} is approved."


async def my_calls(request: Request) -> JSONResponse:
    principal = who(request)
    if principal is None:
        return JSONResponse({"error": "Who are you?"}, 401)
    page = await mcp.calls.of(principal).find()
    return JSONResponse([{"id": call.id, "key": call.key, "text": call.text} for call in page.calls])


async def approve(request: Request) -> JSONResponse:
    principal = who(request)
    if principal is None:
        return JSONResponse({"error": "Who are you?"}, 401)
    try:
        await mcp.calls.of(principal).signal(request.path_params["id"], approval, True)
    except CallNotFound as missing:
        return JSONResponse({"error": str(missing)}, 404)
    except PerdureError as refused:
        return JSONResponse({"error": str(refused)}, 409)
    return JSONResponse({"approved": True})


app = Starlette(
    routes=[
        Mount("/mcp", mcp.streamable_http_app(streamable_http_path="/")),
        Route("/calls", my_calls),
        Route("/calls/{id}/approve", approve, methods=["POST"]),
    ],
    lifespan=mcp.serving,
)
