"""Every byte of a store has a witness; ask them all.

The root is sealed and has a copy; all other metadata and the coordinates follow from it;
receipts, whose digest it holds, name the size and checksum of every other file. What all of them
agree on is still asked whether it makes sense: metadata against arrays, levels against levels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

from thc_dask import schedule
from thc_dask.errors import DataError
from thc_dask.progress import Progress, Standing, tell
from thc_dask.store.books import RECEIPTS, Book
from thc_dask.store.consistency import (
    Problem,
    ShardShape,
    contradictions,
    look_through,
    shard_shapes,
)
from thc_dask.store.location import LOCK, Location
from thc_dask.store.publish import PLAN, small_files
from thc_dask.store.read import Store
from thc_dask.store.root import ROOT, ROOT_COPY, is_sealed
from thc_dask.store.spots import look, spots
from thc_dask.store.staging import JOURNAL, STAGED, journal_of, leftovers


@dataclass(frozen=True)
class _Witness:
    """Compare a file with its receipt, wherever that runs."""

    location: Location
    shapes: dict[str, ShardShape]
    """What shards must be, by the path of their array."""
    doubtful: frozenset[str] = frozenset()
    """Arrays whose metadata contradict the layout."""

    def __call__(self, receipt: dict[str, Any]) -> tuple[int, Problem | None]:
        """Return how many bytes the file has, and what is wrong with it."""
        key, size = receipt["key"], receipt["n_bytes"]
        there = self.location.size(key)
        if there is None:
            return 0, Problem(key, "missing")
        if there != size:
            return there, Problem(key, "truncated" if there < size else "damaged")
        path = key.rsplit("/c/", 1)[0]
        seen = look_through(self.location, key, self.shapes.get(path))
        if seen.what:
            # Where the metadata of an array are wrong, a shard that does not fit them need not be.
            return size, Problem(key, "wrong" if path in self.doubtful else seen.what, seen.why)
        if (seen.n_bytes, seen.crc32c) != (size, receipt["crc32c"]):
            return size, Problem(key, "damaged", "it is not what its receipt says")
        return size, None


def books(store: Store) -> list[Book]:
    """Return where the receipts of everything in a store are."""
    found = [store.book("image"), *map(store.book, (f"labels/{name}" for name in store.label_sets))]
    for path in store.nodes:
        if path.startswith("counts/") and path.split("/")[2:] == ["plane"]:
            found.append(store.book(path.rsplit("/", 1)[0]))
        if path.startswith("maps/") and path.count("/") == 1:
            found.append(store.book(path))
    return found


def problems(
    store: Store, progress: Progress | None = None, spot_checks: int = 0, seed: int = 0
) -> Iterator[Problem]:
    """Yield every file of an opened store that is missing, damaged, wrong or unknown."""
    _understand(store)
    named: set[str] = set()

    def at_spots() -> Iterator[Problem]:
        # A level does not follow from what is missing or damaged.
        sound = [s for s in spots(store, spot_checks, seed) if not s.keys & named]
        # In whatever order they end: what is wrong is told in the same order every time.
        found = itertools.chain.from_iterable(schedule.run(look, sound))
        yield from sorted(found, key=lambda p: (p.key, p.why))

    for problem in itertools.chain(_problems(store, progress), at_spots()):
        if problem.key not in named:
            named.add(problem.key)
            yield problem


def _understand(store: Store) -> None:
    """Raise DataError where the root does not even say what there should be."""
    try:
        _ = books(store), small_files(store.root, store.levels)
        _ = [store.array(path, int(path.rsplit("/", 2)[-2])) for path in shard_shapes(store)]
        _ = [labels.extents for labels in store.label_sets.values()]
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise DataError(
            f"{store.url}/{ROOT}: its metadata cannot be understood ({error!r}), though their "
            f"checksum fits; put {ROOT_COPY} in its place if that is older, or convert again"
        ) from error


def _problems(store: Store, progress: Progress | None) -> Iterator[Problem]:
    location = store.location
    root = location.get(ROOT)
    if root is None or not is_sealed(root):
        yield Problem(ROOT, "missing" if root is None else "damaged")
    copy = location.get(ROOT_COPY)
    if copy != store.root_bytes:
        yield Problem(ROOT_COPY, "missing" if copy is None else "damaged")
    expected = {ROOT, ROOT_COPY, LOCK}
    for key, data in small_files(store.root, store.levels).items():
        expected.add(key)
        found = location.get(key)
        if found != data:
            yield Problem(key, "missing" if found is None else "damaged")
    contradicted = list(contradictions(store))
    yield from contradicted
    receipts: list[dict[str, Any]] = []
    unsure = []
    for book in books(store):
        expected.add(book.key)
        lines, lost = book.read(location)
        receipts += lines.values()
        if lost is not None:
            unsure.append(book.key.removeprefix(f"{RECEIPTS}/").removesuffix(".jsonl"))
            yield Problem(book.key, lost)
    expected |= {r["key"] for r in receipts}
    doubtful = frozenset(p.key.removesuffix("/zarr.json") for p in contradicted)
    ask = _Witness(location, shard_shapes(store), doubtful)
    read_bytes = 0
    asked = schedule.run(ask, receipts, what=itemgetter("key"), verb="verify")
    for done, (n_bytes, found_problem) in enumerate(asked, 1):
        read_bytes += n_bytes
        tell(progress, Standing(done, len(receipts), read_bytes=read_bytes))
        if found_problem is not None:
            yield found_problem
    pending: tuple[str, ...] = ()
    try:
        journal = journal_of(location)
        if journal is not None:
            yield Problem(JOURNAL, "unfinished", f"{journal['group']} is not all in its place")
            group = journal["group"]
            pending = (f"{journal['staged']}/", f"{group}/", f"{RECEIPTS}/{group}/")
            expected.add(f"{group.split('/')[0]}/{ROOT}")
    except DataError:
        yield Problem(JOURNAL, "damaged")
        pending = (f"{STAGED}/",)
    over = leftovers(location, store.root_bytes)
    for key in location.keys(""):
        # Without its receipts nothing can be said of a pyramid's shards.
        if key in expected or key == JOURNAL or key.startswith(pending) or _belongs(key, unsure):
            continue
        ours = key.endswith(".partial") or any(key == k or key.startswith(f"{k}/") for k in over)
        yield Problem(key, "left over" if ours else "unknown")


def take_stock(store: Store, location: Location, key: str) -> dict[str, Any]:
    """Return the receipt of a file of a store as it is at a location.

    Raises
    ------
    DataError
        It is no sound shard of its array.
    """
    shape = shard_shapes(store).get(key.rsplit("/c/", 1)[0])
    seen = look_through(location, key, shape)
    if seen.what:
        raise DataError(f"{location.url}/{key}: {seen.why} ({seen.what}); convert or label again")
    return {"key": key, "n_bytes": seen.n_bytes, "crc32c": seen.crc32c}


def extent_of_proof(store: Store) -> tuple[int, int]:
    """Return how many files, and bytes, the witnesses of a store speak of."""
    small = small_files(store.root, store.levels)
    receipts = [r for book in books(store) for r in book.read(store.location)[0].values()]
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
    if root is None and location.get(PLAN) is not None:
        return Store(location)  # which says that it is not finished, whatever lies there yet
    if (root is None or not is_sealed(root)) and copy is not None and is_sealed(copy):
        store = Store(_Patched(location, copy))
        store.location = location  # whose root is to be named
        return store
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
