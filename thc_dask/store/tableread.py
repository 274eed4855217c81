"""Count tables as they are read: chunk by chunk, without xarray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.schedule import n_threads
from thc_dask.store.books import fetch
from thc_dask.store.read import Store
from thc_dask.store.shards import scratch
from thc_dask.store.tableparts import Sparse

TABLES = 4  # whose receipts stay in memory, while their arrays are read one after the other


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
        A chunk is missing or damaged; the message names it.
    """
    node, receipts = store.nodes[path], _receipts(store, "/".join(path.split("/")[:2]))
    shape, dtype = node["shape"], np.dtype(node["data_type"]).newbyteorder("<")
    sizes = node["chunk_grid"]["configuration"]["chunk_shape"]

    def part(i: int) -> tuple[int, NDArray[Any]]:
        key = f"{path}/c/" + "/".join(map(str, (i, *[0] * (len(shape) - 1))))
        data = fetch(store.location, key, receipts)
        n = min(sizes[0], shape[0] - i * sizes[0])
        if data is None:
            return i * sizes[0], np.zeros((n, *shape[1:]), dtype)
        raw = scratch.decompressor.decompress(data)
        return i * sizes[0], np.frombuffer(raw, dtype).reshape(sizes)[:n]

    # In threads of this process: decoding waits for nobody, and a table is small.
    with ThreadPoolExecutor(n_threads()) as pool:
        waiting: deque[Future[tuple[int, NDArray[Any]]]] = deque()
        for i in range(-(-shape[0] // sizes[0])):
            waiting.append(pool.submit(part, i))
            if len(waiting) > 2 * n_threads():
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


@lru_cache(TABLES)
def _receipts(store: Store, table: str) -> dict[str, dict[str, Any]]:
    """Return the receipts of a table's files; without them what is there may be anything."""
    return store.book(table).sound(store.location)


def read_sparse(store: Store, path: str) -> Sparse:
    """Return a table (chunk, row, column) without the rows of zeros; held by chunk, then row.

    Raises
    ------
    DataError
        A chunk of it is missing or damaged; the message names it.
    """
    chunk, row, counts = [], [], []
    for start, part in read_parts(store, path):
        which, rows = np.nonzero(part.max(axis=2))
        chunk.append(start + which)
        row.append(rows)
        counts.append(part[which, rows])
    none = np.zeros((0, store.nodes[path]["shape"][2]), np.uint32)
    whole = np.zeros(0, np.int64)
    return Sparse(
        np.concatenate([whole, *chunk]), np.concatenate([whole, *row]),
        np.concatenate([none, *counts]),
    )  # fmt: skip
