"""Whether workers see the store that this process sees: one leaves a word, the other reads it."""

from __future__ import annotations

import secrets
from typing import Any

from thc_dask import schedule
from thc_dask.errors import FailureError, RequestError
from thc_dask.store.location import Location
from thc_dask.store.root import ROOT
from thc_dask.store.staging import STAGED

REMEDY = "put it where every host sees it: a folder that they share at one path, or object storage"


def see(location: Location) -> None:
    """Raise FailureError where a worker of the current cluster finds another root, or none.

    Nothing is written; in threads and processes of this host there is nothing to ask.
    """
    client = schedule.current_client()
    root = location.get(ROOT) if client is not None else None
    if client is None or root is None:
        return
    for address, found in client.run(location.get, ROOT, on_error="return").items():
        if found != root:
            raise _blind(location, address, found)


def exchange(location: Location) -> None:
    """Raise FailureError where a worker of the current cluster cannot read, or write, the store.

    This process leaves a word there that every worker reads, and every worker one that is read
    here; none of it stays. Who calls it is the only one to write.
    """
    client = schedule.current_client()
    if client is None:
        return
    word = secrets.token_bytes(8)
    top = f"{STAGED}/sight-{word.hex()}"
    try:
        location.put(f"{top}/here", word, durable=False)
        answers = client.run(_answer, location, top, word, on_error="return")
        for address, key in answers.items():
            if not isinstance(key, str):
                raise _blind(location, address, key)
            if location.get(key) != word:
                raise FailureError(
                    f"what the worker at {address} writes to {location.url} is not seen here; "
                    f"{REMEDY}"
                )
    finally:
        location.delete(top)
        if not location.keys(STAGED):
            location.delete(STAGED)


def _answer(location: Location, top: str, word: bytes) -> str | None:
    """Return the key under which this worker wrote the word; None where it does not find it."""
    if location.get(f"{top}/here") != word:
        return None
    key = f"{top}/{secrets.token_hex(8)}"
    location.put(key, word, durable=False)
    return key


def _blind(location: Location, address: str, found: Any) -> FailureError | RequestError:
    if isinstance(found, Exception):
        why = " ".join(str(found).split()) or type(found).__name__
        kind = type(found) if isinstance(found, RequestError) else FailureError
        return kind(f"the worker at {address} cannot use {location.url}: {why}")
    what = "nothing of it" if found is None else "another store"
    return FailureError(f"the worker at {address} sees {what} at {location.url}; {REMEDY}")
