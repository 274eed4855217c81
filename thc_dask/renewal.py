"""What of a table must be counted anew: layers of shards in which something has changed.

The counts of a plane are a sum over all shards of its layer, so a layer is what can be kept. It is
what it was if its shards have the same receipts (keys, sizes, checksums) and the same voxels of it
are known.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError
from thc_dask.grid import Extent, Vox
from thc_dask.pairs import IMAGE, Pair, describe, make_pair
from thc_dask.store.books import fetch
from thc_dask.store.read import Store
from thc_dask.store.tableparts import Sparse
from thc_dask.store.tableread import read_array, read_sparse
from thc_dask.store.tables import Table, stored_digests


class Books:
    """Receipts of what is in a store, each book read once."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._read: dict[str, dict[str, Any] | None] = {}

    def of(self, what: str) -> dict[str, Any] | None:
        """Return the receipts of ``image``, ``labels/roi``, ..., None where they are damaged."""
        if what not in self._read:
            found, lost = self._store.book(what).read(self._store.location)
            self._read[what] = None if lost else found
        return self._read[what]


def layer_digests(pair: Pair, books: Books) -> dict[str, str]:
    """Return what identifies the voxels that a pair counts, by number of a layer of shards.

    Nothing where the receipts do not tell.
    """
    layers: dict[int, list[Any]] = {}
    shards: dict[int, set[Vox]] = {}
    depth = pair.rows.array.shard[0]
    for box in pair.known:
        for z in range(box.start[0] // depth, -(-box.stop[0] // depth)):
            part = layer_of(box, z, depth)
            layers.setdefault(z, []).append([list(part.start), list(part.stop)])
            shards.setdefault(z, set()).update(pair.rows.array.shards(part))
    said: dict[int, list[Any]] = {z: [] for z in layers}
    for axis in (pair.rows, pair.columns):
        receipts = books.of(axis.name if axis.name == IMAGE else f"labels/{axis.name}")
        if receipts is None:
            return {}
        for z, places in shards.items():
            lines = (receipts.get(axis.array.key(place)) for place in sorted(places))
            # A shard of zeros has no receipt.
            said[z].append([line and [line["n_bytes"], line["crc32c"]] for line in lines])
    return {
        str(z): hashlib.sha256(json.dumps([sorted(layers[z]), said[z]]).encode()).hexdigest()[:32]
        for z in sorted(layers)
    }


def layer_of(box: Extent, z: int, depth: int) -> Extent:
    """Return the part of a box in a layer of shards.

    >>> str(layer_of(Extent((3, 0, 0), (20, 5, 5)), 1, 8))
    '8:16,0:5,0:5'
    """
    whole = Extent((z * depth, *box.start[1:]), ((z + 1) * depth, *box.stop[1:]))
    return box.intersect(whole)


@dataclass(frozen=True)
class Earlier:
    """The tables that the store has of a pair, and which layers of them still hold."""

    fresh: bool
    """Whether there is nothing to do."""
    layers: frozenset[int]
    """Which of them hold."""

    def rest(self, pair: Pair) -> Pair:
        """Return the pair where it must be counted."""
        if not self.layers:
            return pair
        depth = pair.rows.array.shard[0]
        known = [
            layer_of(box, z, depth)
            for box in pair.known
            for z in range(box.start[0] // depth, -(-box.stop[0] // depth))
            if z not in self.layers
        ]
        return replace(pair, known=tuple(known))


def earlier(store: Store, table: Table, books: Books) -> Earlier:
    """Return what the store has of a table, if every byte of that is as it was written."""
    nothing = Earlier(False, frozenset())
    path = f"{table.path}/plane"
    if path not in store.nodes or not _is_whole(store, table, books):
        return nothing
    attributes = store.nodes[path]["attributes"]
    said: Mapping[str, str] = attributes.get("layers", {})
    if attributes["digests"] == table.digests:
        return Earlier(True, frozenset())
    for side in (table.rows, table.columns):
        here = f"{path}/{side.dim}"
        if here not in store.nodes or read_array(store, here).tolist() != side.values.tolist():
            return nothing
    held = {int(z) for z, now in table.layers.items() if said.get(z) == now}
    return Earlier(False, frozenset(held))


def _is_whole(store: Store, table: Table, books: Books) -> bool:
    receipts = books.of(table.path)
    if receipts is None:
        return False
    try:
        for key in receipts:
            fetch(store.location, key, receipts)
    except DataError:
        return False
    return True


def read_layers(
    store: Store, table: Table, layers: Collection[int], depth: int
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64], Sparse]:
    """Return what stored tables hold of some layers.

    The numbers of the planes and their counts (plane, row, column), then the places (chunk, 3) and
    what these hold. ``depth`` is that of a layer, in planes.
    """
    wanted = np.array(sorted(layers), np.int64)
    plane, chunk = f"{table.path}/plane", f"{table.path}/chunk"
    numbers = read_array(store, f"{plane}/plane")
    here = np.isin(numbers // depth, wanted)
    planes = read_array(store, f"{plane}/counts")[here]
    places = np.stack([read_array(store, f"{chunk}/chunk_{axis}") for axis in "zyx"], axis=1)
    held = np.isin(places[:, 0] * store.levels[0].chunk[0] // depth, wanted)
    some = read_sparse(store, f"{chunk}/counts")
    keep = held[some.chunk]
    number = np.cumsum(held) - 1
    sparse = Sparse(number[some.chunk[keep]], some.row[keep], some.counts[keep])
    return numbers[here], planes, places[held], sparse


def states(store: Store) -> dict[str, str]:
    """Return whether each table of a store is of the voxels that are there now, by its key."""
    found = {}
    for path, node in store.nodes.items():
        if path.startswith("counts/") and path.split("/")[2:] == ["plane"]:
            attrs = node["attributes"]
            names = (attrs["rows"], attrs["columns"])
            if not {*names} - {"image"} <= set(store.label_sets):
                found[path.split("/")[1]] = "stale: its label set is gone"
                continue
            table = describe(store, make_pair(store, *names))
            fresh = stored_digests(store, table) == table.digests
            found[table.key] = "up to date" if fresh else "stale: thc count makes it anew"
    return found
