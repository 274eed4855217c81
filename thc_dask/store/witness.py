"""Every byte of a store has a witness; ask them all.

The root is sealed and has a copy; all other metadata and the coordinates follow from it;
receipts, whose digest it holds, name the size and checksum of every other file.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import google_crc32c

from thc_dask import schedule
from thc_dask.errors import DataError
from thc_dask.store.location import LOCK, Location, require
from thc_dask.store.publish import ROOT, ROOT_COPY, digest, is_sealed, small_files
from thc_dask.store.read import Store
from thc_dask.store.write import RECEIPTS, Progress


@dataclass(frozen=True)
class Problem:
    """One file that is not what it should be."""

    key: str
    """The file, below the store."""
    what: str
    """``missing``, ``truncated``, ``damaged`` or ``unknown``."""


@dataclass(frozen=True)
class Book:
    """The receipts of one pyramid or one pair of tables."""

    key: str
    """Where they are written down."""
    digest: str
    """What the root says they come to."""
    meaning: Any = None
    """What else the digest is of."""

    def read(self, location: Location) -> tuple[list[dict[str, Any]], Problem | None]:
        """Return the receipts, none of them if they are not those that the root knows."""
        data = location.get(self.key)
        if data is None:
            return [], Problem(self.key, "missing")
        try:
            found = [json.loads(line) for line in data.decode().splitlines()]
            lines = "".join(f"{json.dumps(receipt)}\n" for receipt in found)
            if lines.encode() == data and digest(found, self.meaning) == self.digest:
                return found, None
        except (ValueError, KeyError, TypeError):
            pass
        return [], Problem(self.key, "damaged")


@dataclass(frozen=True)
class _Witness:
    """Compare a file with its receipt, wherever that runs."""

    location: Location

    def __call__(self, receipt: dict[str, Any]) -> Problem | None:
        key, size = receipt["key"], receipt["n_bytes"]
        data = self.location.get(key)
        if data is None:
            return Problem(key, "missing")
        if len(data) != size:
            return Problem(key, "truncated" if len(data) < size else "damaged")
        return None if google_crc32c.value(data) == receipt["crc32c"] else Problem(key, "damaged")


def books(store: Store) -> list[Book]:
    """Return where the receipts of everything in a store are."""
    found = [Book(f"{RECEIPTS}/image.jsonl", store.digest)]
    for name, labels in store.label_sets.items():
        meaning = {"scheme": labels.thc["scheme"], "extents": labels.thc["extents"]}
        found.append(Book(f"{RECEIPTS}/labels/{name}/{name}.jsonl", labels.digest, meaning))
    for path, node in store.nodes.items():
        if path.startswith("counts/") and path.split("/")[2:] == ["plane"]:
            table = path.rsplit("/", 1)[0]
            found.append(Book(f"{RECEIPTS}/{table}.jsonl", node["attributes"]["files"]))
    return found


def problems(store: Store, progress: Progress | None = None) -> Iterator[Problem]:
    """Yield every file of an opened store that is missing, damaged or unknown."""
    location = store.location
    root = location.get(ROOT)
    if root is None or not is_sealed(root):
        yield Problem(ROOT, "damaged")
    elif location.get(ROOT_COPY) != root:
        yield Problem(ROOT_COPY, "damaged")
    expected = {ROOT, ROOT_COPY, LOCK}
    for key, data in small_files(store.root, store.levels).items():
        expected.add(key)
        found = location.get(key)
        if found != data:
            yield Problem(key, "missing" if found is None else "damaged")
    receipts: list[dict[str, Any]] = []
    unsure = []
    for book in books(store):
        expected.add(book.key)
        lines, problem = book.read(location)
        receipts += lines
        if problem is not None:
            unsure.append(book.key.removeprefix(f"{RECEIPTS}/").removesuffix(".jsonl"))
            yield problem
    expected |= {r["key"] for r in receipts}
    for done, found_problem in enumerate(schedule.run(_Witness(location), receipts), 1):
        if progress is not None:
            progress(done, len(receipts))
        if found_problem is not None:
            yield found_problem
    for key in location.keys(""):
        # Without its receipts nothing can be said of a pyramid's shards.
        if key not in expected and not _belongs(key, unsure):
            yield Problem(key, "unknown")


def take_stock(location: Location, key: str) -> dict[str, Any]:
    """Return the receipt of a file as it is."""
    data = require(location, key)
    return {"key": key, "n_bytes": len(data), "crc32c": int(google_crc32c.value(data))}


def extent_of_proof(store: Store) -> tuple[int, int]:
    """Return how many files, and bytes, the witnesses of a store speak of."""
    small = small_files(store.root, store.levels)
    receipts = [r for book in books(store) for r in book.read(store.location)[0]]
    n_bytes = sum(map(len, small.values())) + sum(r["n_bytes"] for r in receipts)
    return len(small) + len(receipts), n_bytes


def _belongs(key: str, books: Iterable[str]) -> bool:
    for name in books:
        top = "" if name == "image" else f"{name.rsplit('/', 1)[0]}/"
        if name.startswith("counts/"):
            top = f"{name}/"
        if key.startswith(top) and ("/c/" in key or key.endswith("/c")):
            return True
    return False


def open_whole(location: Location) -> Store:
    """Return a store even if its root is damaged, from the copy of its root.

    Raises
    ------
    DataError
        Both are damaged.
    MissingError, UnfinishedError, RequestError
        As opening a store does.
    """
    root, copy = location.get(ROOT), location.get(ROOT_COPY)
    if (root is None or not is_sealed(root)) and copy is not None and is_sealed(copy):
        return Store(_Patched(location, copy))
    if root is not None and copy is not None and not is_sealed(root):
        raise DataError(
            f"{location.url}/{ROOT} and its copy {ROOT_COPY} are both damaged; convert again"
        )
    return Store(location)


class _Patched:
    """A location whose root reads as its undamaged copy."""

    def __init__(self, location: Location, root: bytes) -> None:
        self._location, self._root = location, root

    def get(self, key: str) -> bytes | None:
        return self._root if key == ROOT else self._location.get(key)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._location, name)
