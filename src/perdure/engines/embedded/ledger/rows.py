"""The row of a call, and what is made of it: its view, and what a worker holds of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from typing import Any

from perdure.core.codec import encode_error
from perdure.engine import NOBODY, CallView, Principal, Progress, Question, SignalSpec
from perdure.engines.embedded.journal import Held
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.moment import moment
from perdure.errors import PerdureError, Stuck

Row = Sequence[Any]

AT_ONCE = 1e10
"""A `wake_at` of `at - AT_ONCE` is below any clock: due since `at`, even when the clock is set back."""

VERSIONS_OF_A_LIFE = 1_000_000
"""More than the owner of a call can have shown of it without recording that: the row's version grows by it with each
claim, and wherever the call leaves memory."""

HEAD_START = VERSIONS_OF_A_LIFE // 2
"""What the owner shows is ahead of the row while it has the call. The row counts units of which nothing is shown,
and who has read it must not take what the owner shows next for something old."""

NEW_LIFE = f"version = version + {VERSIONS_OF_A_LIFE}"
"""For a statement after which somebody else shows the call, or the same one with another journal."""

STARTS = "coalesce(started, created + delay)"
"""When the body began, or is to begin: of the journal that it has now."""

UNSERVED_AFTER = 30.0
"""Seconds after which a due call whose function nobody runs shows as stuck: longer than a restart takes."""

ARGUMENTS = "coalesce(arguments, (SELECT body FROM large_arguments WHERE call = n))"

QUESTIONS = """
    (SELECT json_group_array(json_array(name, json(body))) FROM
        (SELECT name, body FROM questions WHERE shown = n AND state = 'open' ORDER BY row))"""
"""What a call shows of what is asked, as `questions_from` reads it."""


def _view(version: str) -> str:
    return f"""
        n, id, tool, function, kind, key, status, text, data, parent, outcome, failure, caller, shared, signals,
        progress, {version}, created, ended, owner, wake_at,
        CASE WHEN shared THEN (SELECT json_group_array(caller) FROM holders WHERE call = n) END,
        CASE WHEN owner IS NULL AND wake_at IS NOT NULL
            THEN EXISTS (SELECT 1 FROM offers WHERE function = calls.function) END,
        {QUESTIONS}, updated, expires"""


VIEW = _view("version")
"""The columns of a view, for SELECT from calls."""

HELD = f"""
    {_view(f"version + {HEAD_START}")},
    epoch, principal, seed, python, {STARTS}, deadline, crashes, begun, run, {ARGUMENTS}"""


def view_of(row: Row, now: float) -> CallView:
    (
        _n,
        call_id,
        tool,
        function,
        kind,
        key,
        status,
        text,
        data,
        parent,
        outcome,
        failure,
        caller,
        _shared,
        signals,
        progress,
        version,
        created,
        ended,
        _owner,
        wake_at,
        holders,
        served,
        questions,
        updated,
        expires,
    ) = row[:26]
    if ended is None and served == 0 and is_due_since(wake_at, now - UNSERVED_AFTER):
        status = "stuck"
        failure = encode_error(Stuck(call_id, f"no process that is running has the function {function}."))
    return CallView(
        id=call_id,
        tool=tool,
        function=function,
        kind=kind,
        key=key,
        status=status,
        text=text,
        status_data=data,
        questions=questions_from(questions),
        parent=parent,
        outcome=outcome,
        failure=failure,
        callers=frozenset((caller or NOBODY,) if holders is None else json.loads(holders)),
        signals=() if signals is None else signals_from(signals),
        progress=None if progress is None else Progress(*json.loads(progress)),
        version=version,
        created=moment(created),
        updated=_time(updated if ended is None else ended),
        wakes=_time(wake_at) if ended is None and wake_at is not None and wake_at >= 0 else None,
        expires=_time(expires),
        ended=_time(ended),
    )


def _time(seconds: float | None) -> datetime | None:
    return None if seconds is None else moment(seconds)


def find_view(ledger: Ledger, n: int) -> CallView:
    row = ledger.row(f"SELECT {VIEW} FROM calls WHERE n = ?", (n,))
    assert row is not None
    return view_of(row, ledger.clock())


def held_of(row: Row, now: float) -> Held:
    """Of a row with the columns of `HELD`, claimed just now."""
    epoch, principal, seed, python, starts, deadline, crashes, begun, run, arguments = row[26:]
    return Held(
        n=row[0],
        epoch=epoch,
        view=view_of(row, now),
        arguments=arguments,
        caller=row[12],
        principal=None if principal is None else principal_from(principal),
        seed=int(seed),
        python=python,
        starts=starts,
        deadline=deadline,
        crashes=crashes,
        begun=begun > 1,  # this life is counted
        run=run,
        is_first=run == 0 and epoch == first_epoch(int(seed)) + 1,
    )


def first_epoch(seed: int) -> int:
    """Of a call that nobody has claimed. Random, because a row's number may be used again once its call was removed,
    and the late owner of that one must stay fenced."""
    return seed & 0x3FFFFFFF


def is_due_since(wake_at: float, when: float) -> bool:
    return (wake_at if wake_at >= 0 else wake_at + AT_ONCE) <= when


def cancellation(reason: str) -> bytes:
    """The failure of a cancelled call."""
    return encode_error(PerdureError(f"cancelled: {reason}" if reason else "cancelled"))


@lru_cache(1024)
def principal_to(principal: Principal) -> str:
    facts = {
        "subject": principal.subject,
        "issuer": principal.issuer,
        "client_id": principal.client_id,
        "scopes": sorted(principal.scopes),
    }
    return json.dumps(facts, separators=(",", ":"))


@lru_cache(1024)
def principal_from(text: str) -> Principal:
    facts = json.loads(text)
    return Principal(facts["subject"], facts["issuer"], facts["client_id"], frozenset(facts["scopes"]))


def question_to(question: Question) -> str:
    """Without its name, which has a column."""
    body = [question.kind, question.message, question.schema, question.url, question.params]
    return json.dumps(body, separators=(",", ":"))


def questions_from(text: str) -> tuple[Question, ...]:
    return () if text == "[]" else tuple(Question(name, *body) for name, body in json.loads(text))


def signals_to(signals: tuple[SignalSpec, ...]) -> str | None:
    if not signals:
        return None
    return json.dumps([[s.name, s.once, s.schema] for s in signals], separators=(",", ":"))


@lru_cache(256)
def signals_from(text: str) -> tuple[SignalSpec, ...]:
    return tuple(SignalSpec(name, once, schema) for name, once, schema in json.loads(text))


def is_once(signals: str | None, name: str) -> bool:
    return signals is not None and any(spec.name == name and spec.once for spec in signals_from(signals))


def progress_to(progress: Progress) -> str:
    return json.dumps([progress.progress, progress.total, progress.message], separators=(",", ":"))


@lru_cache(64)
def as_json(functions: frozenset[str]) -> str:
    return json.dumps(sorted(functions))
