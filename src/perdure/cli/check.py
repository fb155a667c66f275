"""What a server promises of each of its functions, and what looks wrong in them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from perdure.cli.output import print_json, terminal
from perdure.cli.render import printable
from perdure.cli.target import find_server
from perdure.protocol.handles import HandleTools
from perdure.testing.review import Finding, review_body, review_whole_step
from perdure.tool import Registration


@dataclass(frozen=True, slots=True)
class Checked:
    registration: Registration
    findings: tuple[Finding, ...]


def check_server(target: str, *, as_json: bool) -> bool:
    """Show it; whether nothing looks wrong."""
    written = [each for each in find_server(target).registrations if not _is_perdures(each)]
    checked = [Checked(each, tuple(_review(each))) for each in written]
    if as_json:
        print_json([_as_json(each) for each in checked])
    else:
        terminal().print(_page(checked))
    return not any(each.findings for each in checked)


def _is_perdures(registration: Registration) -> bool:
    """One of the tools that come with `handle_tools=True`: nobody wrote it, and nobody can mend it."""
    return isinstance(getattr(registration.fn, "__self__", None), HandleTools)


def _review(registration: Registration) -> Sequence[Finding]:
    match registration.way:
        case "body":
            return review_body(registration.fn)
        case "whole step":
            return review_whole_step(registration.fn)
        case "ordinary":
            return ()


def after_a_crash(registration: Registration) -> str:
    options = registration.options
    if options is None:
        return "is lost, and done again when it is asked again"
    if registration.way == "body":
        return "goes on where it was; what was recorded is not done again"
    if options.rerun:
        return "runs again, from its start"
    return "ends with OutcomeUnknown, because it may have happened"


def key_in_words(registration: Registration) -> str:
    options = registration.options
    if options is None or options.key is None:
        return ""
    key = options.key if isinstance(options.key, str) else "computed"
    return f"{key} (shared)" if options.shared else key


def _page(checked: Sequence[Checked]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for column in ("name", "what", "kind", "key", "after a crash it"):
        table.add_column(column, overflow="fold")
    for each in checked:
        registration = each.registration
        cells = (registration.kind, registration.way, key_in_words(registration), after_a_crash(registration))
        table.add_row(
            Text.assemble(printable(registration.name), (" !" if each.findings else "", "bold red")), *map(Text, cells)
        )
    findings = list(dict.fromkeys(finding for each in checked for finding in each.findings))
    return Group(table, Text(), *(_spell(finding) for finding in findings), _verdict(findings))


def _spell(finding: Finding) -> Text:
    where = f"{_shown_path(finding.file)}:{finding.line}"
    return Text.assemble((where, "bold"), f"  {finding.function}: ", (finding.what, "red"), f": {finding.remedy}")


def _verdict(findings: Sequence[Finding]) -> Text:
    if not findings:
        return Text("Nothing looks wrong.", "green")
    return Text("1 place looks wrong." if len(findings) == 1 else f"{len(findings)} places look wrong.", "red")


def _shown_path(file: str) -> str:
    """As one would type it here."""
    try:
        relative = os.path.relpath(file)
    except ValueError:  # another drive
        return file
    return file if relative.startswith(os.pardir) else relative


def _as_json(checked: Checked) -> dict[str, Any]:
    registration = checked.registration
    options = registration.options
    key = None if options is None else options.key
    return {
        "name": registration.name,
        "what": registration.kind,
        "kind": registration.way,
        "after_a_crash": after_a_crash(registration),
        "key": key if key is None or isinstance(key, str) else "computed",
        "shared": options is not None and options.shared,
        "findings": [asdict(finding) for finding in checked.findings],
    }
