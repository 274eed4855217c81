"""Changes that lie aside until all of them are there, then take place whatever happens.

A label set that is added to or replaced stays whole, and in use, while its new shards are made.
They are moved into place as a journal says: a change that is cut off there is completed by the
next process that writes. Readers find the old set, or none, or the new one.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import google_crc32c

from thc_dask.errors import DataError, WriteError
from thc_dask.store import metadata
from thc_dask.store.additions import cut_off
from thc_dask.store.books import RECEIPTS, book_key, receipts_key
from thc_dask.store.filesink import PARTIAL
from thc_dask.store.location import Buffer, Location, Ranges, Sink, ranges_of
from thc_dask.store.publish import PLAN
from thc_dask.store.root import (
    ROOT,
    UNSETTLED,
    add_nodes,
    check_unchanged,
    nodes_of,
    remove_nodes,
)

STAGED = "thc/staged"
JOURNAL = "thc/journal.json"
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

    def for_zarr(self) -> Any:
        return self._base.for_zarr()

    @property
    def far(self) -> bool:
        return self._base.far

    def get_ranges(self, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes] | None:
        return ranges_of(self, key, ranges)

    def opened(self, key: str) -> Ranges:
        return Ranges(self, key)

    def size(self, key: str) -> int | None:
        n = self._base.size(self._aside(key))
        if n is None and not self._afresh:
            return self._base.size(key)
        return None if n == len(GONE) else n

    @property
    def alone(self) -> bool:
        return self._base.alone

    def check_writable(self) -> None:
        self._base.check_writable()

    @contextmanager
    def lock(self) -> Iterator[None]:
        with self._base.lock():
            yield

    def put(self, key: str, data: Buffer, durable: bool = True) -> None:
        self._base.put(self._aside(key), data, durable)

    def exchange(self, key: str, before: bytes | None, data: bytes) -> bool:
        return self._base.exchange(self._aside(key), before, data)

    def sink(self, key: str) -> Sink:
        return self._base.sink(self._aside(key))

    def sink_bytes(self, n_bytes: int) -> int:
        return self._base.sink_bytes(n_bytes)

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

    def release(self, key: str) -> None:
        """Move one object to where it belongs."""
        self._base.move(self._aside(key), key)

    def settle(self, root: bytes, group: str, nodes: dict[str, metadata.Node]) -> None:
        """Put all that lies aside in the place of ``group``, and name ``nodes`` in the root.

        ``root`` is the root as it was when the work began. From the moment the journal is written
        the change is certain: what breaks off after it is completed by ``recover``.

        Raises
        ------
        WriteError
            Another process has changed the root since, or the target cannot be written.
        """
        check_unchanged(self._base, root)
        gone: list[str] = []
        moves: list[str] = []
        for key in self.keys(""):
            if key.endswith(PARTIAL):  # of a worker that was killed; goes with all that lies aside
                continue
            aside = self._base.size(self._aside(key))
            (gone if aside == len(GONE) else moves).append(key)
        if self._afresh:
            gone += sorted(set(self._base.keys(f"{group}/")) - set(moves))
        journal = {
            "group": group, "staged": self._top, "remove": gone, "move": moves, "nodes": nodes
        }  # fmt: skip
        if not self._base.exchange(JOURNAL, None, _with_crc(journal)):
            raise WriteError(
                f"cannot write {self.url}: another process is changing its labels; its change "
                "stands, this one was not made: run it again"
            )
        recover(self._base)

    def discard(self) -> None:
        """Forget all that lies aside, unless a journal has made it certain."""
        journal = journal_of(self._base)
        if journal is None or journal["staged"] != self._top:
            self._base.delete(self._top)

    def _aside(self, key: str) -> str:
        return f"{self._top}/{key}"


def journal_of(location: Location) -> dict[str, Any] | None:
    """Return the change that is taking place, None where there is none.

    Raises
    ------
    DataError
        Its journal is damaged.
    """
    data = location.get(JOURNAL)
    if data is None:
        return None
    try:
        found: dict[str, Any] = json.loads(data)
    except ValueError:
        found = {}
    if data != _with_crc(found):
        raise DataError(
            f"{location.url}/{JOURNAL} is damaged, so a change of labels that broke off cannot be "
            "completed; remove that file and bring the labels in again"
        )
    return found


def _with_crc(journal: dict[str, Any]) -> bytes:
    """Return a journal's bytes with their own checksum among them."""
    crc = int(google_crc32c.value(metadata.dumps(journal | {"crc32c": 0})))
    return metadata.dumps(journal | {"crc32c": crc})


def recover(location: Location) -> str | None:
    """Complete the change that a journal tells of; return the group that it is of.

    Every step may have been taken already, and may be taken again.
    """
    journal = journal_of(location)
    if journal is None:
        return None
    group, staged = str(journal["group"]), journal["staged"]
    root = location.get(ROOT)
    if root is not None and not _is_settled(root, journal):
        if group in nodes_of(root):
            root = remove_nodes(location, root, group, unsettled=True)
        for key in journal["remove"]:
            location.remove(key)
        for key in journal["move"]:
            if location.size(f"{staged}/{key}") is not None:
                location.move(f"{staged}/{key}", key)
        add_nodes(location, root, journal["nodes"])
    location.delete(staged)
    location.remove(JOURNAL)
    return group


def _is_settled(root: bytes, journal: dict[str, Any]) -> bool:
    """Whether the root names just what the journal is about."""
    if UNSETTLED in json.loads(root)["attributes"]["thc"]:
        return False
    group = journal["group"]
    have = {p: n for p, n in nodes_of(root).items() if p == group or p.startswith(f"{group}/")}
    return bool(have == journal["nodes"])


def tidy(location: Location, alone: bool | None = None) -> str | None:
    """Put right what processes that were cut off have left in a finished store.

    Only the holder of the lock may. ``alone`` says that no other process writes; by default that is
    so wherever there are locks. Returns the group whose change was completed, if any.
    """
    done = recover(location)
    root = location.get(ROOT)
    if root is not None:
        for key in leftovers(location, root, location.alone if alone is None else alone):
            location.delete(key)
    return done


def leftovers(location: Location, root: bytes, alone: bool = True) -> list[str]:
    """Return what only processes that were cut off leave in a finished store: keys and prefixes.

    What another process may be writing at this moment does not look different; unless we are
    ``alone`` it is left out: what lies aside, and new label sets.
    """
    keys, nodes, top = location.keys("thc/"), nodes_of(root), f"{RECEIPTS}/labels"
    found = [PLAN, *([STAGED] if alone else []), receipts_key("image")]
    found = [f for f in found if any(key == f or key.startswith(f"{f}/") for key in keys)]
    found += cut_off(keys, nodes) if alone else []
    # Receipts of single tasks, and that they were begun; those of whole sets are not so deep.
    parts = (key.removeprefix(f"{top}/").split("/") for key in keys if key.startswith(f"{top}/"))
    for name in sorted({part[0] for part in parts if len(part) > 2}):
        is_new = f"labels/{name}" not in nodes
        if is_new and alone:
            found += [f"labels/{name}", book_key(f"labels/{name}")]
            found += [f"labels/{ROOT}"] if "labels" not in nodes else []
        if alone or not is_new:
            found.append(receipts_key(f"labels/{name}"))  # last: it says that the rest is ours
    return found
