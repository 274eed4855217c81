"""Count tables as part of a store: plain zarr groups that xarray opens."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zstandard
from numpy.typing import NDArray

from thc_dask import __version__
from thc_dask.errors import DataError
from thc_dask.grid import Extent
from thc_dask.schedule import n_threads
from thc_dask.schemes import Scheme
from thc_dask.store import metadata
from thc_dask.store.publish import digest
from thc_dask.store.read import Store
from thc_dask.store.root import add_nodes, node_bytes, remove_nodes
from thc_dask.store.shards import scratch
from thc_dask.store.write import RECEIPTS


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
        remove_nodes(store.location, store.root_bytes, table.path)
        store = Store(store.location)
    store.location.delete(table.path)
    nodes, files = _contents(store, table, planes, places, chunks)
    try:
        for key, data in files.items():
            store.location.put(key, data)
        nodes[f"{table.path}/plane"]["attributes"]["files"] = _keep_receipts(store, table, files)
        for path in sorted(nodes, key=lambda p: -p.count("/")):
            store.location.put(f"{path}/zarr.json", node_bytes(nodes, path))
        add_nodes(store.location, store.root_bytes, nodes)
    except BaseException:
        if table.path not in Store(store.location).nodes:
            store.location.delete(table.path)
        raise
    return Store(store.location)


def _contents(
    store: Store, table: Table, planes: NDArray[np.int64], places: NDArray[np.int64],
    chunks: NDArray[np.uint32],
) -> tuple[dict[str, metadata.Node], dict[str, bytes]]:  # fmt: skip
    """Return the nodes of a pair of tables as xarray reads them, and their files."""
    attributes = {
        "rows": table.rows.name, "columns": table.columns.name, "level": 0,
        "digests": table.digests, "software": f"thc_dask {__version__}",
        "counted": "voxels of level 0 where rows and columns are known",
    }  # fmt: skip
    held = sorted({z for e in table.known for z in range(e.start[0], e.stop[0])})
    numbers = np.array(held, np.int64)  # whole numbers also where none is held
    z = store.grid.coordinates(0)[numbers]
    named: dict[str, dict[str, tuple[NDArray[Any], metadata.Node]]] = {
        "plane": {"plane": (numbers, {}), "z": (z, {"units": "micrometer"})},
        "chunk": {f"chunk_{axis}": (places[:, i], {}) for i, axis in enumerate("zyx")},
    }
    nodes: dict[str, metadata.Node] = {table.path: metadata.group()}
    files: dict[str, bytes] = {}
    sides = (table.rows, table.columns)
    n = max(1, 2**20 // (table.rows.n * table.columns.n))

    def add(path: str, values: NDArray[Any], chunk: Sequence[int], *about: Any) -> None:
        nodes[path], found = metadata.table_array(values, chunk, *about)
        files.update({f"{path}/c/{place}": data for place, data in found.items()})

    for kind, counts in (("plane", planes[numbers]), ("chunk", chunks)):
        top = f"{table.path}/{kind}"
        nodes[top] = metadata.group(attributes)
        also = {"coordinates": " ".join(sorted(name for name in named[kind] if name != kind))}
        sizes = (min(n, len(counts)), table.rows.n, table.columns.n)
        add(f"{top}/counts", counts, sizes, (kind, *(side.dim for side in sides)), also)
        for side in sides:
            add(f"{top}/{side.dim}", side.values, (side.n,), (side.dim,), side.attributes)
        for name, (values, attrs) in named[kind].items():
            add(f"{top}/{name}", values, values.shape, (kind,), attrs)
    return nodes, files


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


def read_array(store: Store, path: str) -> NDArray[Any]:
    """Return an array of a table, whole."""
    shape = store.nodes[path]["shape"]
    parts = [part for _, part in read_parts(store, path)]
    return np.concatenate(parts) if parts else np.zeros(shape, store.nodes[path]["data_type"])


def read_parts(store: Store, path: str) -> Iterator[tuple[int, NDArray[Any]]]:
    """Yield an array of a table chunk by chunk along its first axis, with where each begins.

    Raises
    ------
    DataError
        A chunk is damaged; the message names it.
    """
    node = store.nodes[path]
    shape, dtype = node["shape"], np.dtype(node["data_type"]).newbyteorder("<")
    sizes = node["chunk_grid"]["configuration"]["chunk_shape"]

    def part(i: int) -> tuple[int, NDArray[Any]]:
        key = f"{path}/c/" + "/".join(map(str, (i, *[0] * (len(shape) - 1))))
        data = store.location.get(key)
        n = min(sizes[0], shape[0] - i * sizes[0])
        if data is None:
            return i * sizes[0], np.zeros((n, *shape[1:]), dtype)
        try:
            raw = scratch.decompressor.decompress(data)
            return i * sizes[0], np.frombuffer(raw, dtype).reshape(sizes)[:n]
        except (zstandard.ZstdError, ValueError) as error:
            raise DataError(
                f"{store.url}/{key} is damaged ({error}); run thc verify --repair"
            ) from error

    # In threads of this process: decoding waits for nobody, and a table is small.
    with ThreadPoolExecutor(n_threads()) as pool:
        waiting: deque[Future[tuple[int, NDArray[Any]]]] = deque()
        for i in range(-(-shape[0] // sizes[0])):
            waiting.append(pool.submit(part, i))
            if len(waiting) > 2 * n_threads():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
