"""What is added to a finished store, or replaced in it: tables and maps, whole or not at all."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

from thc_dask.store.books import RECEIPTS, book_key, receipts_key
from thc_dask.store.publish import BEGUN
from thc_dask.store.read import Store
from thc_dask.store.root import ROOT, remove_nodes

TOPS = ("counts", "maps")


@contextmanager
def adding(store: Store, path: str) -> Iterator[Store]:
    """Give a store without the group at ``path``, which is to be written and named in the root.

    What fails, or is cut off, leaves nothing: a mark says from the first file to the last that
    these are ours.
    """
    location, mark = store.location, f"{receipts_key(path)}.{BEGUN}"
    location.put(mark, b"begun\n", durable=False)
    try:
        if path in store.nodes:
            remove_nodes(location, store.root_bytes, path)
            store = Store(location)
        location.delete(path)
        yield store
    except BaseException:
        if path not in Store(location).nodes:
            for key in (path, book_key(path)):
                location.delete(key)
        location.remove(mark)
        raise
    location.remove(mark)


def cut_off(keys: Collection[str], nodes: Collection[str]) -> list[str]:
    """Return what of ``keys`` and beside them is of additions that were cut off: keys, prefixes.

    ``nodes`` are those that the root names.
    """
    found = []
    for mark in keys:
        path = mark.removeprefix(f"{RECEIPTS}/").removesuffix(f".{BEGUN}")
        top = path.split("/")[0]
        if top not in TOPS or not mark.endswith(f".{BEGUN}"):
            continue
        if path not in nodes:
            found += [path, book_key(path)]
            found += [f"{top}/{ROOT}"] if top not in nodes else []
        found.append(mark)  # last: it says that the rest is ours
    return found
