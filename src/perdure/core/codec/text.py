"""Texts that can be recorded and sent. Names of files, among others, may have lone surrogates, which are no Unicode."""

from __future__ import annotations

from typing import TypeVar

from perdure.errors import NotRecordable

Text = TypeVar("Text", str, "str | None")


def is_unicode(*texts: str | None) -> bool:
    try:
        for text in texts:
            if text is not None:
                text.encode()
    except UnicodeEncodeError:
        return False
    return True


def recordable(what: str, text: Text) -> Text:
    """The text as it is; raises `NotRecordable` for one that would break the unit or the stream it is in."""
    if not is_unicode(text):
        raise NotRecordable(what, f"{text!r} is no Unicode: it has surrogates, which have no UTF-8.")
    return text
