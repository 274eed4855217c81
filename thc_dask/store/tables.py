"""Count tables as part of a store: plain zarr groups that xarray opens."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import __version__
from thc_dask.grid import Extent, Grid, Vox
from thc_dask.schedule import n_threads
from thc_dask.schemes import Scheme
from thc_dask.store import metadata
from thc_dask.store.additions import adding
from thc_dask.store.books import book_key, digest, receipt_of, written_down
from thc_dask.store.location import Location
from thc_dask.store.publish import putters
from thc_dask.store.read import Store
from thc_dask.store.root import add_nodes, node_bytes
from thc_dask.store.tableparts import Joined, Parts, joined, whole

PART_NUMBERS = 2**20  # counts that are compressed together, at most
FEW_NUMBERS = 2**18  # and at least, where cores could share them
N_PARTS = 4
PARTS_AT_A_TIME = 4  # at most, of those that are fresh memory: megabytes each


@dataclass(frozen=True)
class Side:
    """Rows or columns of a table."""

    name: str
    """``image`` or the name of a label set."""
    dim: str
    """``region``, ``structure`` or ``intensity``."""
    n: int
    """How many there are."""
    scheme: Scheme | None
    """What the codes mean; None for intensities."""

    @property
    def values(self) -> NDArray[np.int64]:
        """What stands beside each row or column: codes, or intensities."""
        values = np.arange(self.n) if self.scheme is None else self.scheme.codes
        return values.astype(np.int64)

    @property
    def attributes(self) -> dict[str, Any]:
        """Return what the codes mean, as CF flags: zarr has no string type yet."""
        if self.scheme is None:
            return {}
        return {
            "flag_values": [int(c) for c in self.scheme.codes],
            "flag_meanings": " ".join(n.replace(" ", "_") for n in self.scheme.names),
            "scheme": self.scheme.name,
        }


@dataclass(frozen=True)
class Table:
    """What identifies a pair of tables, by plane and by chunk."""

    key: str
    """Name of the group below ``counts``."""
    rows: Side
    columns: Side
    known: Sequence[Extent]
    """Where both are known, voxels of level 0."""
    digests: dict[str, str]
    """Which voxels were counted."""
    layers: Mapping[str, str] = field(default_factory=dict)
    """The same of each layer of shards along z, by its number; empty where that is not known."""

    @property
    def path(self) -> str:
        """Group in the store."""
        return f"counts/{self.key}"


def keep(
    store: Store, table: Table, planes: NDArray[np.integer[Any]], places: NDArray[np.int64],
    chunks: Joined,
) -> Store:  # fmt: skip
    """Write a pair of tables into the store, then name them in its root; return it, opened anew.

    ``planes`` is (plane, row, column) for all planes of the volume; ``places`` (chunk, 3) are the
    chunks that ``chunks`` counts.
    """
    with adding(store, table.path) as store:
        nodes = write_table(store.location, store.grid, table, planes, places, chunks)
        add_nodes(store.location, store.root_bytes, nodes)
    return Store(store.location)


def write_table(
    location: Location, grid: Grid, table: Table, planes: NDArray[np.integer[Any]],
    places: NDArray[np.int64], chunks: Joined,
) -> dict[str, metadata.Node]:  # fmt: skip
    """Write the files of a pair of tables as ``keep`` does; return their nodes by path.

    They are part of the store once the root names them.
    """
    arrays = _arrays(grid, table, planes, places, chunks)
    nodes = _groups(table) | {array.path: array.node() for array in arrays}

    # Compressing must not wait for the disk or the network.
    n = min(n_threads(), PARTS_AT_A_TIME)
    with putters(location) as disk, ThreadPoolExecutor(n) as pool:

        def make(job: tuple[Parts, int]) -> tuple[dict[str, Any], Future[None]] | None:
            array, start = job
            data = array.encoded(start)
            if data is None:
                return None
            key = array.key(start)
            receipt = receipt_of(key, data)
            return receipt, disk.submit(location.put, key, data)

        def put_node(path: str) -> None:
            location.put(f"{path}/zarr.json", node_bytes(nodes, path))

        made = pool.map(make, [(array, start) for array in arrays for start in array.starts()])
        last = f"{table.path}/plane"
        puts = [disk.submit(put_node, path) for path in nodes if path != last]
        receipts = []
        for receipt, put in filter(None, made):
            receipts.append(receipt)
            puts.append(put)
        nodes[last]["attributes"]["files"] = digest(receipts)
        book = written_down(receipts)
        puts.append(disk.submit(location.put, book_key(table.path), book))
        puts.append(disk.submit(put_node, last))
        for put in puts:
            put.result()
    return nodes


def n_files_of_all(grid: Grid, table: Table, chunk: Vox) -> int:
    """Return how many files a pair of tables of all voxels is, with the groups above them."""
    n = [-(-size // c) for size, c in zip(grid.shape, chunk, strict=True)]
    # A place as often as there are chunks, and no count at all: nothing is held of what is planned.
    places = np.broadcast_to(np.array(n, np.int64) - 1, (math.prod(n), 3))
    _, none = joined([], table.columns.n)
    arrays = _arrays(grid, table, np.zeros((0, 0, 0), np.int64), places, none)
    # Parts of zeros are not stored. Of numbers that rise only the last need not be 0.
    parts = [
        len(array.starts())
        if len(array.shape) > 1
        else int(array.part(array.shape[0] - 1, array.shape[0]).any())
        for array in arrays
    ]
    receipts, above = 1, table.path.count("/")
    return len(_groups(table)) + len(arrays) + sum(parts) + receipts + above


def _groups(table: Table) -> dict[str, metadata.Node]:
    about = {
        "rows": table.rows.name, "columns": table.columns.name, "level": 0,
        "digests": table.digests, "software": f"thc_dask {__version__}",
        "counted": "voxels of level 0 where rows and columns are known",
    }  # fmt: skip
    layers = {"layers": dict(table.layers)} if table.layers else {}
    return {
        table.path: metadata.group(),
        f"{table.path}/plane": metadata.group(about | layers),
        f"{table.path}/chunk": metadata.group(about),
    }


def _arrays(
    grid: Grid,
    table: Table,
    planes: NDArray[np.integer[Any]],
    places: NDArray[np.int64],
    chunks: Joined,
) -> list[Parts]:
    """Return the arrays of a pair of tables as xarray reads them."""
    held = sorted({z for e in table.known for z in range(e.start[0], e.stop[0])})
    numbers = np.array(held, np.int64)  # whole numbers also where none is held
    z = grid.coordinates(0)[numbers]
    named: dict[str, dict[str, tuple[NDArray[Any], metadata.Node]]] = {
        "plane": {"plane": (numbers, {}), "z": (z, {"units": "micrometer"})},
        "chunk": {f"chunk_{axis}": (places[:, i], {}) for i, axis in enumerate("zyx")},
    }
    sides = (table.rows, table.columns)
    n_table = sides[0].n * sides[1].n
    least, most = (max(1, n // n_table) for n in (FEW_NUMBERS, PART_NUMBERS))
    dense: dict[str, tuple[np.dtype[Any], Callable[[int, int], NDArray[Any]]]] = {
        "plane": (np.dtype(np.int64), lambda a, b: planes[numbers[a:b]]),
        "chunk": (np.dtype(np.uint32), lambda a, b: chunks.dense(a, b, sides[0].n)),
    }
    found = []
    for kind, n_first in (("plane", len(numbers)), ("chunk", len(places))):
        top, (dtype, part) = f"{table.path}/{kind}", dense[kind]
        about = {"coordinates": " ".join(sorted(name for name in named[kind] if name != kind))}
        dims = (kind, *(side.dim for side in sides))
        shape = (n_first, *(side.n for side in sides))
        size = min(max(-(-n_first // N_PARTS), least), most, n_first)
        found.append(Parts(f"{top}/counts", shape, dtype, size, dims, about, part))
        found += [whole(top, s.dim, s.dim, s.values, s.attributes) for s in sides]
        found += [whole(top, name, kind, *values) for name, values in named[kind].items()]
    return found


def stored_digests(store: Store, table: Table) -> dict[str, str] | None:
    """Return which voxels the stored tables were counted from, None where there are none."""
    node = store.nodes.get(f"{table.path}/plane")
    return None if node is None else dict(node["attributes"]["digests"])
