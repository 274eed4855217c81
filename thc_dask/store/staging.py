"""Changes that lie aside until all of them are there.

A label set that is added to or replaced stays whole, and in use, while its new shards are made.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager

from thc_dask.store.location import Buffer, Location, Sink

STAGED = "thc/staged"
GONE = b"-"  # stands where an object is to be removed; shorter than any of ours


class Staged:
    """A location as it will be: writes go aside, reads find them.

    What is not staged is read from the store itself, or, with ``afresh``, does not exist.
    """

    def __init__(self, base: Location, afresh: bool) -> None:
        self.url = base.url
        self._base, self._afresh = base, afresh
        # A task of a run that broke off may write on for a while: no two runs share a place.
        self._top = f"{STAGED}/{secrets.token_hex(4)}"

    def get(self, key: str) -> bytes | None:
        data = self._base.get(self._aside(key))
        if data is None and not self._afresh:
            return self._base.get(key)
        return None if data == GONE else data

    def get_range(self, key: str, start: int, n: int) -> bytes | None:
        data = self._base.get_range(self._aside(key), start, n)
        if data is None and not self._afresh:
            return self._base.get_range(key, start, n)
        return None if data == GONE else data

    def size(self, key: str) -> int | None:
        n = self._base.size(self._aside(key))
        if n is None and not self._afresh:
            return self._base.size(key)
        return None if n == len(GONE) else n

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self._base.lock():
            yield

    def put(self, key: str, data: Buffer, durable: bool = True) -> None:
        self._base.put(self._aside(key), data, durable)

    def sink(self, key: str) -> Sink:
        return self._base.sink(self._aside(key))

    def remove(self, key: str) -> None:
        self._base.put(self._aside(key), GONE, durable=False)

    def delete(self, prefix: str) -> None:
        self._base.delete(self._aside(prefix))
        self._base.put(self._aside(prefix), GONE, durable=False)

    def keys(self, prefix: str) -> list[str]:
        """Return the keys below ``prefix`` that have been written or removed, sorted."""
        found = self._base.keys(self._aside(prefix))
        return [key.removeprefix(f"{self._top}/") for key in found]

    def move(self, key: str, to: str) -> None:
        self._base.move(self._aside(key), self._aside(to))

    def settle(self, last: str) -> None:
        """Move everything to where it belongs, the object ``last`` after all others."""
        for key in sorted(self.keys(""), key=lambda key: (key == last, key)):
            if self._base.size(self._aside(key)) == len(GONE):
                self._base.delete(key)
            else:
                self._base.move(self._aside(key), key)
        self.discard()

    def discard(self) -> None:
        """Forget all that lies aside, of this run and of any that broke off."""
        self._base.delete(STAGED)

    def _aside(self, key: str) -> str:
        return f"{self._top}/{key}"
