"""Durable maps: one operation, within whatever transaction it is asked in."""

from __future__ import annotations

import sys

from perdure.engine import (
    DeleteEntry,
    GetEntry,
    ListEntries,
    SetEntry,
    StoreOperation,
    StoreReply,
    SwapEntry,
)
from perdure.engines.embedded.journal import LookIntoStore, UseStoreOnce
from perdure.engines.embedded.ledger.ledger import Ledger


def use_store_once(ledger: Ledger, write: UseStoreOnce) -> StoreReply:
    return use_store(ledger, write.store, write.operation)


def look_into_store(ledger: Ledger, read: LookIntoStore) -> StoreReply:
    return use_store(ledger, read.store, read.operation)


def use_store(ledger: Ledger, store: str, operation: StoreOperation) -> StoreReply:
    match operation:
        case GetEntry(scope, key):
            return StoreReply(True, _entry(key, _get(ledger, store, scope, key)))
        case SetEntry(scope, key, value):
            _set(ledger, store, scope, key, value)
            return StoreReply(True)
        case DeleteEntry(scope, key):
            _set(ledger, store, scope, key, None)
            return StoreReply(True)
        case SwapEntry(scope, key, expected, value):
            found = _get(ledger, store, scope, key)
            if found != expected:
                return StoreReply(False, _entry(key, found))
            _set(ledger, store, scope, key, value)
            return StoreReply(True)
        case ListEntries():
            return StoreReply(True, _list(ledger, store, operation))


def _entry(key: str, value: bytes | None) -> tuple[tuple[str, bytes], ...]:
    return () if value is None else ((key, value),)


def _get(ledger: Ledger, store: str, scope: str, key: str) -> bytes | None:
    row = ledger.row("SELECT value FROM stores WHERE store = ? AND scope = ? AND key = ?", (store, scope, key))
    return None if row is None else row[0]


def _set(ledger: Ledger, store: str, scope: str, key: str, value: bytes | None) -> None:
    if value is None:
        ledger.execute("DELETE FROM stores WHERE store = ? AND scope = ? AND key = ?", (store, scope, key))
        return
    ledger.check_size(value, f"The value of {key!r} in store {store!r}")
    ledger.execute(
        "INSERT OR REPLACE INTO stores (store, scope, key, value) VALUES (?, ?, ?, ?)", (store, scope, key, value)
    )


def _list(ledger: Ledger, store: str, wish: ListEntries) -> tuple[tuple[str, bytes], ...]:
    sql = "SELECT key, value FROM stores WHERE store = ? AND scope = ? AND key >= ?"
    values: list[str | int] = [store, wish.scope, wish.prefix]
    if wish.after is not None:
        sql += " AND key > ?"
        values.append(wish.after)
    beyond = _after_prefix(wish.prefix)
    if beyond is not None:
        sql += " AND key < ?"
        values.append(beyond)
    return tuple(ledger.execute(f"{sql} ORDER BY key LIMIT ?", (*values, wish.limit)).fetchall())


def _after_prefix(prefix: str) -> str | None:
    """The least string that is greater than all with the prefix; None where there is none."""
    prefix = prefix.rstrip(chr(sys.maxunicode))
    if not prefix:
        return None
    last = ord(prefix[-1]) + 1
    return prefix[:-1] + chr(0xE000 if last == 0xD800 else last)  # surrogates have no UTF-8
