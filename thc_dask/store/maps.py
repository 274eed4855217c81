"""Maps in a store: coarse images of float32 below ``maps``, which viewers open as any other."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import __version__
from thc_dask.grid import AXES, Grid
from thc_dask.store import metadata
from thc_dask.store.additions import adding
from thc_dask.store.books import book_key, digest, receipt_of, written_down
from thc_dask.store.layout import Level
from thc_dask.store.read import Store
from thc_dask.store.root import add_nodes, node_bytes

CHUNK = 64  # cells a side that are compressed together


def keep_map(
    store: Store, name: str, values: NDArray[np.float32], grid: Grid, record: dict[str, Any]
) -> Store:
    """Write a map into the store, in place of one of that name; return the store, opened anew.

    Parameters
    ----------
    store
        An opened store, whose lock is held.
    name
        Of the map: it lies at ``maps/<name>``.
    values
        (z, y, x), NaN where nothing is known.
    grid
        Where the cells are.
    record
        What it is of, ready for JSON: ``digests`` among it.
    """
    path = f"maps/{name}"
    nodes, files = _contents(path, name, values, grid)
    receipts = [receipt_of(key, data) for key, data in files.items()]
    finite = values[np.isfinite(values)]
    window = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    level = Level(0, grid, grid.shape, grid.shape, 0)
    ome = {
        "version": metadata.OME,
        "multiscales": metadata.multiscales(name, [level], {"type": record["kind"]}),
        "omero": metadata.omero(name, window, window, grid.shape[0] // 2),
    }
    thc = {"software": f"thc_dask {__version__}", **record, "files": digest(receipts)}
    nodes[path] = metadata.group({"ome": ome, "thc": thc})
    with adding(store, path) as store:
        for key, data in files.items():
            store.location.put(key, data)
        store.location.put(book_key(path), written_down(receipts))
        for node in sorted(nodes, key=lambda p: -p.count("/")):
            store.location.put(f"{node}/zarr.json", node_bytes(nodes, node))
        add_nodes(store.location, store.root_bytes, nodes)
    return Store(store.location)


def _contents(
    path: str, name: str, values: NDArray[np.float32], grid: Grid
) -> tuple[dict[str, metadata.Node], dict[str, bytes]]:
    """Return the nodes of the one level, with its coordinates, and their files."""
    top = f"{path}/0"
    sizes = [min(CHUNK, n) for n in values.shape]
    node, chunks = metadata.table_array(values, sizes, AXES, {"long_name": name})
    nodes = {top: metadata.group(), f"{top}/{name}": node}
    files = {f"{top}/{name}/c/{place}": data for place, data in chunks.items()}
    for axis, letter in enumerate(AXES):
        nodes[f"{top}/{letter}"], data = metadata.coordinate_array(grid, axis)
        files[f"{top}/{letter}/c/0"] = data
    return nodes, files
