"""The commands and their options; what they do is imported when one of them is run."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Annotated, Any, Literal

import typer

from perdure.cli.problem import reported

app = typer.Typer(
    help="Durable MCP servers: run them, and see and steer the calls they keep.",
    epilog="First: `perdure demo`. Then: `perdure run weather --http 8000`, and `perdure calls` beside it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,  # an unexpected error is a bug, and its plain traceback belongs in the report
)

Server = Annotated[str, typer.Argument(help="A shipped server's name, a FILE.py, or MODULE:OBJECT.", metavar="SERVER")]
CallId = Annotated[str, typer.Argument(help="The call's id, or its first characters.", metavar="ID")]
EngineOption = Annotated[
    str | None,
    typer.Option(
        "--engine", help="Where calls are kept: a path or URL. Beats what the server says and PERDURE_ENGINE."
    ),
]
FileOption = Annotated[
    str | None,
    typer.Option("--engine", help="The file to read; else PERDURE_ENGINE, else all files of the data folder."),
]
ServerOption = Annotated[str | None, typer.Option("--server", help="The server's name: its file in the data folder.")]
Json = Annotated[bool, typer.Option("--json", help="For programs.")]
Dev = Annotated[
    bool, typer.Option("--dev", help="Check bodies while they run, over a file of its own; for development.")
]

SERVERS = "Servers"
CALLS = "Calls"


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        print(f"perdure {version('perdure')}")
        raise typer.Exit


@app.callback()
def perdure(
    version: Annotated[
        bool, typer.Option("--version", help="Say which version this is.", callback=_say_version, is_eager=True)
    ] = False,
) -> None:
    """What all commands share: nothing but the version."""


# --- servers --------------------------------------------------------------------------------------


@app.command(
    rich_help_panel=SERVERS,
    epilog="`perdure run weather --http 8000`, `perdure run my_server.py`, `perdure run my_package.server:mcp --dev`",
)
def run(
    server: Server,
    http: Annotated[
        int | None, typer.Option("--http", min=0, max=65535, metavar="PORT", help="Streamable HTTP; 0: any free port.")
    ] = None,
    host: Annotated[str, typer.Option(help="The address to listen on, with --http.")] = "127.0.0.1",
    engine: EngineOption = None,
    dev: Dev = False,
) -> None:
    """Run a server, over stdio or HTTP."""
    with reported():
        from perdure.cli.run import run_server

        run_server(server, port=http, host=host, engine=engine, dev=dev)


@app.command(rich_help_panel=SERVERS)
def worker(server: Server, engine: EngineOption = None) -> None:
    """Run a server's calls without serving MCP: what clients left unfinished goes on."""
    with reported():
        from perdure.cli.run import run_worker

        run_worker(server, engine=engine)


@app.command(rich_help_panel=SERVERS)
def check(
    server: Server,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 1 when something looks wrong.")] = False,
    as_json: Json = False,
) -> None:
    """Show what becomes of each tool, resource, prompt and job after a crash, and what looks wrong in their code."""
    with reported():
        from perdure.cli.check import check_server

        looks_right = check_server(server, as_json=as_json)
    if strict and not looks_right:
        raise typer.Exit(1)


@app.command(rich_help_panel=SERVERS)
def demo(
    live: Annotated[bool, typer.Option("--live", help="Ask the real National Weather Service.")] = False,
    server: Annotated[str, typer.Option(hidden=True, help="Show it with another server than weather.")] = "weather",
) -> None:
    """Watch a weather forecast survive kill -9 of its server."""
    with reported():
        from perdure.cli.demo import run_demo

        run_demo(server, live=live)


# --- calls ----------------------------------------------------------------------------------------


@app.command(rich_help_panel=CALLS, epilog="`perdure calls --tool get_forecast --status running`")
def calls(
    tool: Annotated[str | None, typer.Option(help="Only of this tool, resource, prompt or job.")] = None,
    status: Annotated[
        Literal["running", "waiting", "stuck", "completed", "failed", "cancelled"] | None,
        typer.Option(help="Only in this state."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="At most so many.")] = 20,
    after: Annotated[str | None, typer.Option(help="Go on where a page ended.")] = None,
    engine: FileOption = None,
    server: ServerOption = None,
    as_json: Json = False,
) -> None:
    """List calls, the newest first."""
    with reported():
        from perdure.cli.calls import list_calls

        _act(list_calls(_files(engine, server), tool, status, limit, after, as_json=as_json))


@app.command(rich_help_panel=CALLS)
def call(id: CallId, engine: FileOption = None, server: ServerOption = None, as_json: Json = False) -> None:
    """Show a call: its state, its questions, its timeline."""
    with reported():
        from perdure.cli.calls import show_call

        _act(show_call(_files(engine, server), id, as_json=as_json))


@app.command(rich_help_panel=CALLS)
def cancel(
    id: CallId,
    reason: Annotated[str, typer.Option(help="Why; the client is told.")] = "",
    engine: FileOption = None,
    server: ServerOption = None,
) -> None:
    """Cancel a call; its body may clean up first."""
    with reported():
        from perdure.cli.calls import cancel_call

        _act(cancel_call(_files(engine, server), id, reason))


@app.command(
    rich_help_panel=CALLS,
    epilog="""`perdure signal 3f2a decision '{"approved": true}'`""",
    context_settings={"ignore_unknown_options": True},  # -1 is JSON
)
def signal(
    id: CallId,
    name: Annotated[str, typer.Argument(help="The signal's name.", metavar="NAME")],
    value: Annotated[str, typer.Argument(help="Its value.", metavar="JSON")],
    engine: FileOption = None,
    server: ServerOption = None,
) -> None:
    """Send a call a signal."""
    parsed = _json(value)
    with reported():
        from perdure.cli.calls import signal_call

        _act(signal_call(_files(engine, server), id, name, parsed))


@app.command(rich_help_panel=CALLS, epilog="""`perdure answer 3f2a '{"approved": true}'`""")
def answer(
    id: CallId,
    value: Annotated[
        str | None,
        typer.Argument(help="The form's fields as JSON; a text for a question to a model.", metavar="[JSON]"),
    ] = None,
    question: Annotated[str | None, typer.Option(help="Which one, where the call asks several.")] = None,
    decline: Annotated[bool, typer.Option("--decline", help="Decline to answer.")] = False,
    dismiss: Annotated[bool, typer.Option("--dismiss", help="Dismiss the question without a decision.")] = False,
    engine: FileOption = None,
    server: ServerOption = None,
) -> None:
    """Answer what a call asks. Without a value it is shown what is asked."""
    if (value is not None) + decline + dismiss > 1:
        raise typer.BadParameter("give one of JSON, --decline and --dismiss")
    with reported():
        from perdure.cli.calls import answer_call

        _act(answer_call(_files(engine, server), id, value, question, decline=decline, dismiss=dismiss))


@app.command(rich_help_panel=CALLS)
def retry(id: CallId, engine: FileOption = None, server: ServerOption = None) -> None:
    """Try again: replay a stuck call, or start a new one for a call that failed."""
    with reported():
        from perdure.cli.calls import retry_call

        _act(retry_call(_files(engine, server), id))


@app.command(rich_help_panel=CALLS)
def release(id: CallId, engine: FileOption = None, server: ServerOption = None) -> None:
    """Take a call from a process that hangs, so that another can go on with it."""
    with reported():
        from perdure.cli.calls import release_call

        _act(release_call(_files(engine, server), id))


# --- what commands have in common -----------------------------------------------------------------


def _files(engine: str | None, server: str | None) -> list[str]:
    from perdure.cli.files import files_to_read

    if engine is not None and server is not None:
        raise typer.BadParameter("give --engine or --server, not both")
    return files_to_read(engine, server)


def _json(text: str) -> Any:
    import json

    try:
        return json.loads(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text} is not JSON ({error})", param_hint="JSON") from None


def _act(action: Coroutine[Any, Any, None]) -> None:
    import asyncio

    from perdure.cli.ending import clean_up_first
    from perdure.cli.output import quiet

    quiet()
    clean_up_first()
    asyncio.run(action)
