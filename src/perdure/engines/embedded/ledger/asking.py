"""Questions: who can be asked, which call shows them, and the one answer that counts."""

from __future__ import annotations

from perdure.core.codec import encode_error
from perdure.core.events import Answered, Asked
from perdure.engine import Answer, Question, QuestionAsk
from perdure.engines.embedded.journal import AppendQuestion, Delivered, OpenQuestions, QuestionAsked
from perdure.engines.embedded.ledger.inbox import put
from perdure.engines.embedded.ledger.ledger import Ledger
from perdure.engines.embedded.ledger.loading import inbox_after
from perdure.engines.embedded.ledger.places import add_events, take_place
from perdure.engines.embedded.ledger.rows import QUESTIONS, find_view, question_to, questions_from
from perdure.errors import AlreadyAnswered, InputUnavailable, PayloadTooLarge, Refused

# A job has no client: what it asks is seen on the call that waits for it, and so on up to one that a client asked for.
SHOWN = """
    WITH RECURSIVE up (n, kind, parent) AS (
        SELECT n, kind, parent FROM calls WHERE n = ?
        UNION  -- jobs may wait for each other
        SELECT calls.n, calls.kind, calls.parent FROM up JOIN calls ON calls.id = up.parent
        WHERE up.kind = 'job' AND EXISTS (SELECT 1 FROM links WHERE child = up.n AND links.parent = calls.n))
    SELECT n FROM up WHERE kind <> 'job'"""

# What a call and those that it waits for, and so on, are asking.
ASKED = """
    WITH RECURSIVE down (n) AS (SELECT ? UNION SELECT child FROM down JOIN links ON links.parent = down.n)
    SELECT row, call, shown, wish FROM down JOIN questions ON call = n WHERE state = 'open' ORDER BY row"""

SHOW = """
    INSERT INTO questions (call, key, asked, shown, wish, name, number, state, body)
    VALUES (?, ?, ?, ?, ?, ?, ?, 'open', ?)"""

SHOW_AGAIN = """
    INSERT INTO questions (call, key, asked, shown, wish, name, number, state, body)
    SELECT call, key, asked, ?, wish, ?, ?, state, body FROM questions WHERE row = ?"""

WITHDRAW = "UPDATE questions SET state = 'withdrawn', body = NULL WHERE row = ?"

OPEN = f"SELECT {QUESTIONS} FROM calls WHERE n = ?"

BUMP = "UPDATE calls SET version = version + 1 WHERE n = ?"


def append_question(ledger: Ledger, write: AppendQuestion) -> QuestionAsked:
    seq = take_place(ledger, write.n, write.epoch, write.at)
    shown = _shown_on(ledger, write.n)
    told: tuple[Delivered, ...] = ()
    try:
        _check_clients(ledger, shown, write.ask)
        name = _show(ledger, shown, write)
    except (InputUnavailable, PayloadTooLarge) as refusal:
        asked = Asked(write.key, write.name, write.digest, "", encode_error(refusal), write.at)
    else:
        asked = Asked(write.key, write.name, write.digest, name, None, write.at)
        told = _told(ledger, write.n, shown)
    add_events(ledger, write.n, seq, (asked,))
    return QuestionAsked(asked, told)


def answer_question(ledger: Ledger, n: int, answer: Answer, at: float) -> Delivered:
    ledger.check_size(answer.value, f"The answer to {answer.name!r}")
    asked = ledger.row(
        "SELECT row, call, key, asked, shown, state FROM questions WHERE name = ? AND (shown = ? OR call = ?) "
        "ORDER BY state = 'open' DESC",
        (answer.name, n, n),
    )
    if asked is None:
        view = find_view(ledger, n)
        names = ", ".join(question.name for question in view.questions) or "nothing"
        raise Refused(f"Call {view.id} asks no question {answer.name!r}. It asks: {names}.")
    row, call, key, name, shown, state = asked
    if state != "open":
        raise AlreadyAnswered(find_view(ledger, n), answer.name)
    ledger.execute("UPDATE questions SET state = 'answered', body = NULL WHERE row = ?", (row,))
    delivered = put(ledger, call, Answered(key, name, answer.value, at))
    return Delivered(call, delivered.owner, parents=_told(ledger, call, shown))


def has_answer(ledger: Ledger, n: int, keys: tuple[str, ...]) -> bool:
    """That the body was not fed. A question's state does not say so: an earlier journal may have asked there too."""
    events = [row.event for row in inbox_after(ledger, n, 0)]
    return any(isinstance(event, Answered) and event.key in keys for event in events)


def withdraw_all(ledger: Ledger, n: int) -> tuple[Delivered, ...]:
    """Of a call that ends without its body."""
    rows = ledger.execute("SELECT key FROM questions WHERE call = ? AND state = 'open'", (n,)).fetchall()
    return withdraw(ledger, n, tuple(key for (key,) in rows))


def withdraw(ledger: Ledger, n: int, keys: tuple[str, ...]) -> tuple[Delivered, ...]:
    """Nobody waits for the answers any more; those that came already stay."""
    told: tuple[Delivered, ...] = ()
    for key in keys:
        rows = ledger.execute(
            "SELECT row, shown FROM questions WHERE call = ? AND key = ? AND state = 'open'", (n, key)
        ).fetchall()
        for row, shown in rows:
            ledger.execute(WITHDRAW, (row,))
            told += _told(ledger, n, shown)
    return told


def show_elsewhere(ledger: Ledger, n: int) -> tuple[Delivered, ...]:
    """One waits no more for the call: what it and its children ask is seen on who does, or on what asks it."""
    told: tuple[Delivered, ...] = ()
    for row, call, before, wish in ledger.execute(ASKED, (n,)).fetchall():
        shown = _shown_on(ledger, call)
        if shown != before and ledger.row("SELECT 1 FROM calls WHERE n = ? AND shared", (shown,)) is not None:
            shown = call  # there is nobody in particular to ask
        if shown != before:
            # The former name stays taken: a late answer to it is none to what is asked there next.
            ledger.execute(SHOW_AGAIN, (shown, *_name_on(ledger, shown, wish), row))
            ledger.execute(WITHDRAW, (row,))
            told += (_changed(ledger, before), _changed(ledger, shown))
    return told


def open_questions(ledger: Ledger, read: OpenQuestions) -> tuple[Question, ...]:
    row = ledger.row(OPEN, (read.n,))
    assert row is not None
    return questions_from(row[0])


# --- deciding -------------------------------------------------------------------------------------


def _shown_on(ledger: Ledger, n: int) -> int:
    found = ledger.row(SHOWN, (n,))
    return n if found is None else found[0]


def _check_clients(ledger: Ledger, shown: int, ask: QuestionAsk) -> None:
    call = ledger.row("SELECT shared, waiting FROM calls WHERE n = ?", (shown,))
    assert call is not None
    shared, waiting = call
    kind = ask.question.kind
    if shared:
        raise InputUnavailable("A shared call is many callers': there is nobody in particular to ask.")
    if waiting and not _client_can(ledger, shown, kind):
        if ask.if_unable == "refuse":
            raise InputUnavailable(
                f"The client cannot be asked ({kind}), and the question has neither a time-out nor a default."
            )
    elif not waiting and ask.if_nobody == "refuse":
        raise InputUnavailable(f"Nobody waits for the call who could be asked ({kind}).")


def _client_can(ledger: Ledger, n: int, kind: str) -> bool:
    waits = ledger.execute("SELECT asks FROM waits WHERE call = ? AND asks <> ''", (n,)).fetchall()
    return any(kind in asks.split() for (asks,) in waits)


def _show(ledger: Ledger, shown: int, write: AppendQuestion) -> str:
    question = write.ask.question
    body = question_to(question)
    ledger.check_size(body.encode(), f"The question {question.name!r}")
    name, number = _name_on(ledger, shown, question.name)
    ledger.execute(SHOW, (write.n, write.key, name, shown, question.name, name, number, body))
    return name


def _name_on(ledger: Ledger, shown: int, wish: str) -> tuple[str, int]:
    """The name that the body wished for, or with a number where that was used before."""
    last = ledger.row("SELECT max(number) FROM questions WHERE shown = ? AND wish = ?", (shown, wish))
    assert last is not None
    number = (last[0] or 0) + 1
    name = wish if number == 1 else f"{wish}-{number}"
    while ledger.row("SELECT 1 FROM questions WHERE shown = ? AND name = ?", (shown, name)) is not None:
        number += 1
        name = f"{wish}-{number}"
    return name, number


def _told(ledger: Ledger, n: int, shown: int) -> tuple[Delivered, ...]:
    """The ancestor that shows it; the call itself looks at its own questions."""
    return () if shown == n else (_changed(ledger, shown),)


def _changed(ledger: Ledger, shown: int) -> Delivered:
    ledger.execute(BUMP, (shown,))
    row = ledger.row("SELECT owner, id FROM calls WHERE n = ?", (shown,))
    assert row is not None
    return Delivered(shown, row[0], changed=row[1])
