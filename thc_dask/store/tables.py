"""Count tables as part of a store: written with xarray, so that anything reads them."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from thc_dask import __version__
from thc_dask.grid import Extent
from thc_dask.schemes import Scheme
from thc_dask.store import metadata
from thc_dask.store.publish import add_nodes, digest, node_bytes, remove_nodes
from thc_dask.store.read import Store
from thc_dask.store.write import RECEIPTS

if TYPE_CHECKING:
    import xarray as xr


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

    def coordinate(self) -> Any:
        """Return the coordinate variable that is stored: codes with CF flags, or intensities."""
        if self.scheme is None:
            return (self.dim, np.arange(self.n, dtype=np.int64))
        # zarr has no string type yet; CF flags carry the names in a way that tools know.
        attrs = {
            "flag_values": [int(c) for c in self.scheme.codes],
            "flag_meanings": " ".join(n.replace(" ", "_") for n in self.scheme.names),
            "scheme": self.scheme.name,
        }
        return (self.dim, self.scheme.codes, attrs)


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

    @property
    def path(self) -> str:
        """Group in the store."""
        return f"counts/{self.key}"


def keep(
    store: Store, table: Table, planes: NDArray[np.int64], places: NDArray[np.int64],
    chunks: NDArray[np.uint32],
) -> Store:  # fmt: skip
    """Write a pair of tables into the store, then name them in its root; return it, opened anew.

    ``planes`` is (plane, row, column) for all planes of the volume, ``chunks`` (chunk, row,
    column) for the chunks at ``places`` (chunk, 3).
    """
    if table.path in store.nodes:
        remove_nodes(store.location, store.root, table.path)
        store = Store(store.location)
    store.location.delete(table.path)
    nodes: dict[str, metadata.Node] = {}
    files: dict[str, bytes] = {}
    for name, dataset in _datasets(store, table, planes, places, chunks).items():
        for key, data in _as_zarr(table, name, dataset).items():
            if key.endswith("/zarr.json"):
                nodes[key.removesuffix("/zarr.json")] = json.loads(data)
            else:
                files[key] = data
    try:
        for key, data in files.items():
            store.location.put(key, data)
        nodes[f"{table.path}/plane"]["attributes"]["files"] = _keep_receipts(store, table, files)
        for path in sorted(nodes, key=lambda p: -p.count("/")):
            store.location.put(f"{path}/zarr.json", node_bytes(nodes, path))
        add_nodes(store.location, store.root, nodes)
    except BaseException:
        if table.path not in Store(store.location).nodes:
            store.location.delete(table.path)
        raise
    return Store(store.location)


def _datasets(
    store: Store, table: Table, planes: NDArray[np.int64], places: NDArray[np.int64],
    chunks: NDArray[np.uint32],
) -> dict[str, xr.Dataset]:  # fmt: skip
    import xarray as xr

    attrs = {
        "rows": table.rows.name, "columns": table.columns.name, "level": 0,
        "digests": table.digests, "software": f"thc_dask {__version__}",
        "counted": "voxels of level 0 where rows and columns are known",
    }  # fmt: skip
    dims = (table.rows.dim, table.columns.dim)
    coords = {side.dim: side.coordinate() for side in (table.rows, table.columns)}
    held = sorted({z for e in table.known for z in range(e.start[0], e.stop[0])})
    numbers = np.array(held, np.int64)  # whole numbers also where none is held
    z = store.grid.coordinates(0)[numbers]
    of_planes = {"plane": numbers, "z": ("plane", z, {"units": "micrometer"})}
    of_chunks = {f"chunk_{axis}": ("chunk", places[:, i]) for i, axis in enumerate("zyx")}
    by_plane = {"counts": (("plane", *dims), planes[numbers])}
    by_chunk = {"counts": (("chunk", *dims), chunks)}
    return {
        "plane": xr.Dataset(by_plane, {**coords, **of_planes}, attrs),
        "chunk": xr.Dataset(by_chunk, {**coords, **of_chunks}, attrs),
    }


def _as_zarr(table: Table, name: str, dataset: xr.Dataset) -> dict[str, bytes]:
    """Return the files of a table as xarray and zarr write them, by their keys in the store.

    They go to disk through our own location, whole or not at all, as everything does.
    """
    import zarr

    n = max(1, 2**20 // (table.rows.n * table.columns.n))
    sizes = (max(1, min(n, dataset.sizes[name])), table.rows.n, table.columns.n)
    memory: dict[str, Any] = {}
    dataset.to_zarr(
        zarr.storage.MemoryStore(memory), group=f"{table.path}/{name}", mode="w", zarr_format=3,
        consolidated=False, encoding={"counts": {"chunks": sizes}},
    )  # fmt: skip
    below = f"{table.path}/"
    return {
        key: data.to_bytes()
        for key, data in sorted(memory.items())
        if key.startswith(below) and key != f"{below}zarr.json"
    }


def _keep_receipts(store: Store, table: Table, files: dict[str, bytes]) -> str:
    """Write down the size and checksum of a table's files; return the digest of it all."""
    receipts = [
        {"key": key, "n_bytes": len(data), "crc32c": int(google_crc32c.value(data))}
        for key, data in files.items()
    ]
    lines = "".join(f"{json.dumps(receipt)}\n" for receipt in receipts)
    store.location.put(f"{RECEIPTS}/{table.path}.jsonl", lines.encode())
    return digest(receipts)


def stored_digests(store: Store, table: Table) -> dict[str, str] | None:
    """Return which voxels the stored tables were counted from, None where there are none."""
    node = store.nodes.get(f"{table.path}/plane")
    return None if node is None else dict(node["attributes"]["digests"])


def open_table(store: Store, table: Table, kind: Literal["plane", "chunk"]) -> xr.Dataset:
    """Return a stored table, lazily."""
    import xarray as xr

    group = f"{table.path}/{kind}"
    found: xr.Dataset = xr.open_zarr(_address(store), group=group, consolidated=True, chunks=None)
    return found


def _address(store: Store) -> str:
    return store.url if "://" in store.url else os.path.abspath(store.url)
