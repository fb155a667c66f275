"""Reads a function, and the functions of its module that it calls, for what replay would do otherwise."""

from __future__ import annotations

import ast
import inspect
import linecache
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from perdure.core.codec import plain_function
from perdure.job import Job
from perdure.step import Step
from perdure.testing.review.names import Names
from perdure.testing.review.rules import ENVIRONMENT, METHODS, MUTATORS, remedy_for

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef

SHARED = "replay does it again, and a crash forgets it: use mcp.store(…) or a @step"
ORDER = "its order is another one in each process: sorted(…)"
AS_COMPLETED = "coroutines start in an order that no replay repeats: give it tasks (asyncio.create_task)"
UNANNOTATED = "say what it returns (-> …): without that only JSON-like values are recorded"
OUTSIDE = "nothing records it in a tool without a DurableContext: give the tool a ctx, or call the step's .fn"


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in the source that looks wrong: `what` is there, `remedy` is why that is bad and what is better."""

    file: str
    line: int
    function: str
    what: str
    remedy: str


def review_body(fn: Callable[..., Any]) -> list[Finding]:
    """What looks wrong in a body. Steps are left out: they may do what they like."""
    return _review(fn, _Body)


def review_whole_step(fn: Callable[..., Any]) -> list[Finding]:
    """What looks wrong in a tool without a `DurableContext`, which may do I/O but not await steps."""
    return _review(fn, _WholeStep)


def _review(fn: Callable[..., Any], reader: type[_Reader]) -> list[Finding]:
    todo, seen = [inspect.unwrap(plain_function(fn))], set[Any]()
    findings: list[Finding] = []
    while todo:
        function = todo.pop(0)
        if function in seen or (node := _source_of(function)) is None:
            continue
        seen.add(function)
        reading = reader(function, node)
        reading.read()
        findings += reading.findings
        todo += reading.called
    return sorted(set(findings), key=lambda finding: (finding.file, finding.line, finding.what))


def _source_of(function: Callable[..., Any]) -> FunctionNode | None:
    """None where there is no source: an interpreter's prompt, a C function."""
    code = getattr(function, "__code__", None)
    if code is None:
        return None
    try:
        tree = ast.parse("".join(linecache.getlines(code.co_filename)))
    except SyntaxError:
        return None
    for node in ast.walk(tree):
        if isinstance(node, FunctionNode) and node.name == code.co_name:
            first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
            if code.co_firstlineno in (first, node.lineno):
                return node
    return None


class _Reader:
    def __init__(self, function: Callable[..., Any], node: FunctionNode) -> None:
        self.findings: list[Finding] = []
        self.called: list[Callable[..., Any]] = []
        self._function = function
        self._node = node
        self._names = Names(function, node)

    def read(self) -> None:
        for node in _in_body(self._node):
            self.look_at(node)

    def look_at(self, node: ast.AST) -> None:
        raise NotImplementedError

    def find(self, node: ast.AST, remedy: str, what: str | None = None) -> None:
        code: Any = getattr(self._function, "__code__")  # noqa: B009  every function has one; its type does not say so
        shown = what if what is not None else ast.unparse(node).partition("\n")[0]
        line = getattr(node, "lineno", self._node.lineno)
        self.findings.append(Finding(code.co_filename, line, self._node.name, shown[:80], remedy))

    def follow(self, called: Any) -> None:
        """A function of the same module runs as part of this one."""
        if inspect.isfunction(called) and called.__module__ == self._function.__module__:
            self.called.append(inspect.unwrap(called))


class _WholeStep(_Reader):
    def look_at(self, node: ast.AST) -> None:
        if isinstance(node, ast.Call):
            called = self._names.object_of(node.func)
            if isinstance(called, Step):
                self.find(node.func, OUTSIDE)
            else:
                self.follow(called)


class _Body(_Reader):
    def look_at(self, node: ast.AST) -> None:
        match node:
            case ast.Call():
                self._look_at_call(node)
            case ast.Attribute() if self._names.full_name(node) == "os.environ":
                self.find(node, ENVIRONMENT)
            case ast.Name(ctx=ast.Load()) if self._names.full_name(node) == "os.environ":
                self.find(node, ENVIRONMENT)
            case ast.Global(names=names):
                self.find(node, SHARED, f"global {', '.join(names)}")
            case ast.Assign(targets=targets) | ast.Delete(targets=targets):
                self._look_at_targets(node, targets)
            case ast.AugAssign(target=target) | ast.AnnAssign(target=target):
                self._look_at_targets(node, [target])
            case ast.For(iter=iterated) | ast.AsyncFor(iter=iterated) | ast.comprehension(iter=iterated):
                self._look_at_order(iterated)
            case _:
                pass

    def _look_at_call(self, node: ast.Call) -> None:
        called = self._names.object_of(node.func)
        if isinstance(called, Step):
            self._look_at_step(node, called)  # pyright: ignore[reportUnknownArgumentType]  isinstance cannot say of what
            return
        if isinstance(called, Job):
            return
        name = self._names.full_name(node.func)
        remedy = None if name is None else remedy_for(name)
        if remedy is None and isinstance(node.func, ast.Attribute):
            remedy = METHODS.get(node.func.attr)
        if name == "asyncio.as_completed" and _makes_coroutines(node):
            remedy = AS_COMPLETED
        if remedy is not None:
            self.find(node.func, remedy, f"{ast.unparse(node.func)}()")
        elif self._changes_global(node.func):
            self.find(node.func, SHARED, f"{ast.unparse(node.func)}()")
        else:
            self.follow(called)

    def _look_at_step(self, node: ast.Call, step: Step[..., Any]) -> None:
        if inspect.signature(plain_function(step.fn)).return_annotation is inspect.Signature.empty:
            self.find(node, UNANNOTATED, f"step {step.name!r}")

    def _look_at_targets(self, node: ast.AST, targets: list[ast.expr]) -> None:
        for target in targets:
            if isinstance(target, ast.Name):
                continue  # the function's own, unless it says `global`
            name = _root(target)
            if name is not None and self._names.is_global(name):
                self.find(node, SHARED, ast.unparse(target))

    def _changes_global(self, called: ast.expr) -> bool:
        if not (isinstance(called, ast.Attribute) and called.attr in MUTATORS and isinstance(called.value, ast.Name)):
            return False
        # Of a built-in collection: other classes' `update` may be a durable one.
        return self._names.is_global(called.value.id) and isinstance(
            self._names.object_of(called.value), dict | list | set | bytearray
        )

    def _look_at_order(self, iterated: ast.expr) -> None:
        is_call = isinstance(iterated, ast.Call)
        if isinstance(iterated, ast.Set | ast.SetComp) or (
            is_call and self._names.object_of(iterated.func) in (set, frozenset)
        ):
            self.find(iterated, ORDER, f"for … in {ast.unparse(iterated)}")


def _in_body(function: FunctionNode) -> Iterator[ast.AST]:
    """All of its source but decorators, defaults and annotations, which run once, and steps that it makes."""
    todo: list[ast.AST] = list(function.body)
    handed_to_steps = set(_handed_to_steps(function))
    while todo:
        node = todo.pop(0)
        yield node
        if isinstance(node, FunctionNode):
            if node.name not in handed_to_steps and not any(_makes_step(each) for each in node.decorator_list):
                todo += node.body
            continue
        if isinstance(node, ast.Call) and _makes_step(node):
            todo += [node.func, *node.args[1:], *(keyword.value for keyword in node.keywords)]
            continue
        todo += ast.iter_child_nodes(node)


def _handed_to_steps(function: FunctionNode) -> Iterator[str]:
    """`ctx.step(fetch, …)`: what `fetch` does is a step's."""
    for node in ast.walk(function):
        if isinstance(node, ast.Call) and _makes_step(node) and node.args and isinstance(node.args[0], ast.Name):
            yield node.args[0].id


def _makes_step(node: ast.expr) -> bool:
    """`@step`, `@step(…)`, `ctx.step(fn, …)`, `perdure.step(fn, …)`."""
    called = node.func if isinstance(node, ast.Call) else node
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)) == "step"


def _makes_coroutines(node: ast.Call) -> bool:
    """Seen only where they are made in the call itself; of a name that is given nothing is known."""
    given = node.args[0] if node.args else None
    match given:
        case ast.List(elts=made) | ast.Set(elts=made) | ast.Tuple(elts=made):
            pass
        case ast.ListComp(elt=element) | ast.GeneratorExp(elt=element) | ast.SetComp(elt=element):
            made = [element]
        case _:
            return False
    return any(isinstance(each, ast.Call) and not _makes_task(each.func) for each in made)


def _makes_task(called: ast.expr) -> bool:
    return (called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", None)) in (
        "create_task",
        "ensure_future",
    )


def _root(node: ast.expr) -> str | None:
    while isinstance(node, ast.Subscript | ast.Attribute):
        node = node.value
    return node.id if isinstance(node, ast.Name) else None
