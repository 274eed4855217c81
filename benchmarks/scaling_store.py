"""What object storage and the bookkeeping of a conversion cost, on this machine.

``puts``: latency and rate of PUTs against a server on loopback. ``columns``: what a column of
shards costs that holds nothing, from reading to the receipt, and what the client keeps of it;
and what ``--resume`` takes to look at what is there. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from scaling_tasks import resident_bytes

SHARD_BYTES = 12_700_000  # 256**3 voxels at the ratio of the reference volume
RECEIPT_BYTES = 400


@contextmanager
def served() -> Iterator[None]:
    """Start a server of object storage on loopback, and point clients at it."""
    sys.path.insert(0, str(Path(__file__).parents[1]))
    import pytest

    from tests import object_storage

    with (
        tempfile.TemporaryDirectory() as folder,
        pytest.MonkeyPatch.context() as patch,
        object_storage.seaweed(folder, volumes=40) as url,
    ):
        object_storage.point_at(patch, url)
        from thc_dask.store.location import locate

        locate("s3://bucket/first").put("object", b"makes the bucket")
        yield


def puts(n_small: int, n_large: int) -> dict[str, Any]:
    """Return seconds of PUTs of receipts and of shards, by how many go at a time."""
    from thc_dask.store.location import locate

    location = locate("s3://bucket/puts")
    shard = np.random.default_rng(0).bytes(SHARD_BYTES)
    found: dict[str, Any] = {}
    for name, data, n in (("receipt", bytes(RECEIPT_BYTES), n_small), ("shard", shard, n_large)):
        for threads in (1, 4, 16):
            found[f"{name}_{threads}"] = _put_many(location, f"{name}/{threads}", data, n, threads)
    return {"shard_bytes": SHARD_BYTES, "receipt_bytes": RECEIPT_BYTES, **found}


def _put_many(location: Any, top: str, data: bytes, n: int, threads: int) -> dict[str, float]:
    def put(i: int) -> float:
        start = time.perf_counter()
        location.put(f"{top}/{i}", data)
        return time.perf_counter() - start

    cpu, start = time.process_time(), time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        seconds = sorted(pool.map(put, range(n)))
    wall, cpu = time.perf_counter() - start, time.process_time() - cpu
    return {
        "n": n,
        "median_ms": 1000 * statistics.median(seconds),
        "p95_ms": 1000 * seconds[math.ceil(0.95 * n) - 1],
        "per_s": n / wall,
        "gb_per_s": n * len(data) / wall / 1e9,
        "client_cpu_ms": 1000 * cpu / n,
    }


def columns(store: str, n: int) -> dict[str, Any]:
    """Return what ``n`` columns of nothing cost, and what it takes to look at them again."""
    import dask.array
    import xarray as xr

    from thc_dask import convert, schedule
    from thc_dask.convert import _prepare
    from thc_dask.options import wanted

    side = 16
    n_y = math.isqrt(n)
    shape = (side, side * n_y, side * -(-n // n_y))
    n = n_y * (shape[2] // side)
    zeros = dask.array.zeros(shape, dtype=np.uint8, chunks=(side, side, shape[2]))
    coords = {axis: np.arange(size, dtype=float) for axis, size in zip("zyx", shape, strict=True)}
    source = xr.DataArray(zeros, dims=("z", "y", "x"), coords=coords)
    source = source.assign_coords({a: (a, coords[a], {"units": "micrometer"}) for a in "zyx"})
    layout = {"chunk": (8, 8, 8), "shard": (side,) * 3, "levels": 1, "memory_bytes": 2**20}

    before, start = resident_bytes(), time.perf_counter()
    job = _prepare(source, store, wanted(**layout))
    target, tasks, _ = job.plan(job.reader)
    planned = time.perf_counter() - start
    assert schedule.is_local()
    start = time.perf_counter()
    convert(source, store, **layout)
    wall = time.perf_counter() - start
    held = resident_bytes() - before
    # What a run that was interrupted has left: the receipts of all columns.
    target.location.put("shard", b"some voxels")
    shards = [{"key": "shard", "n_bytes": 11, "crc32c": 0}] * 3
    with ThreadPoolExecutor(16) as pool:
        places = [(0, y, x) for y in range(n_y) for x in range(n // n_y)]
        keys = [target.receipt_key(0, place) for place in places]
        bodies = [json.dumps({"place": place, "shards": shards}).encode() for place in places]
        list(pool.map(target.location.put, keys, bodies))
    start = time.perf_counter()
    assert len(target.receipts(0)) == n
    looked = time.perf_counter() - start
    start = time.perf_counter()
    target.location.delete("thc/receipts")
    removed = time.perf_counter() - start
    return {
        "n": n,
        "n_tasks": len(tasks[0][1]),
        "plan_ms_per_column": 1000 * planned / n,
        "convert_ms_per_column": 1000 * wall / n,
        "client_bytes_per_column": max(0, held) / n,
        "resume_ms_per_column": 1000 * looked / n,
        "clear_ms_per_column": 1000 * removed / n,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["puts", "columns"])
    parser.add_argument("--n", type=int, default=2000, help="receipts, or columns")
    parser.add_argument("--shards", type=int, default=48, help="shards that are put")
    parser.add_argument("--where", choices=["disk", "s3"], default="disk")
    args = parser.parse_args()
    if args.what == "puts" or args.where == "s3":
        with served():
            if args.what == "puts":
                found = puts(args.n, args.shards)
            else:
                found = columns("s3://bucket/columns.ome.zarr", args.n)
    else:
        with tempfile.TemporaryDirectory(dir=os.environ.get("TMPDIR")) as folder:
            found = columns(f"{folder}/columns.ome.zarr", args.n)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
