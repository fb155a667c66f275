"""From what is written as SERVER to a server: a shipped name, a file, or a module, and the object in it."""

from __future__ import annotations

import sys
from importlib import import_module
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

from perdure.cli.problem import Problem
from perdure.server import DurableMCP
from perdure.servers import SHIPPED

Server = DurableMCP[Any]

PREFERRED = "mcp"


def find_server(target: str) -> Server:
    """Import what `target` names. What that raises is the author's, and is not caught."""
    where, name = _split(target)
    module = _module(where)
    return _only_server(module, target) if name is None else _named(module, name, target)


def _split(target: str) -> tuple[str, str | None]:
    where, colon, name = target.rpartition(":")
    # C:\server.py has a colon, too.
    if colon and all(part.isidentifier() for part in name.split(".")):
        return where, name
    return target, None


def _module(where: str) -> ModuleType:
    if where in SHIPPED:
        return import_module(SHIPPED[where])
    if where.endswith(".py"):
        return _from_file(Path(where).absolute())
    sys.path.insert(0, str(Path.cwd()))
    try:
        return import_module(where)
    except ModuleNotFoundError as missing:
        if missing.name is None or not f"{where}.".startswith(f"{missing.name}."):
            raise  # an import inside the module
        shipped = ", ".join(SHIPPED)
        raise Problem(f"{where} is no server: it is no FILE.py, no module, and none that ships ({shipped}).") from None


def _from_file(path: Path) -> ModuleType:
    """As `python path` would, but under the file's name: calls are kept under `module:qualname`, in both the same."""
    if not path.is_file():
        raise Problem(f"There is no file {path}.")
    name = path.stem
    if name in sys.modules:
        raise Problem(f"{path.name} has the name of another module, {name}. Rename the file.")
    sys.path.insert(0, str(path.parent))
    spec = spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _named(module: ModuleType, name: str, target: str) -> Server:
    found: Any = module
    for part in name.split("."):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise Problem(f"{module.__name__} has no {name}.") from None
    if not isinstance(found, DurableMCP):
        raise Problem(f"{target} is a {type(found).__name__}, not a DurableMCP.{_hint(found)}")
    return found  # pyright: ignore[reportUnknownVariableType]  isinstance cannot say of what


def _only_server(module: ModuleType, target: str) -> Server:
    servers: dict[str, Server] = {name: each for name, each in vars(module).items() if isinstance(each, DurableMCP)}
    if PREFERRED in servers:
        return servers[PREFERRED]
    if not servers:
        raise Problem(f"{target} has no DurableMCP.{''.join({_hint(each) for each in vars(module).values()})}")
    if len({id(server) for server in servers.values()}) > 1:
        raise Problem(f"{target} has several servers; name one: {', '.join(f'{target}:{name}' for name in servers)}.")
    return next(iter(servers.values()))


def _hint(found: object) -> str:
    from mcp.server.mcpserver import MCPServer

    if isinstance(found, MCPServer):
        return " It has an MCPServer: write DurableMCP in its place, and import that from perdure."
    return ""
