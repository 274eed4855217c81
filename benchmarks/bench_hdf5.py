"""From 32-bit HDF5 to 8-bit levels, beside what reading twice and compressing once would take.

    python benchmarks/bench_hdf5.py [--layout plain|chunked|deflate] [--shape Z,Y,X] [--cold]

The input is a Data Exchange file of float32 voxels. ``thc convert --window auto`` reads it twice:
to count grey levels, then to convert. The limit is the same bytes read and decoded twice, and
8-bit chunks of all levels compressed once, each alone on all cores, measured before and after.
Reading is the system's ``pread`` into memory that stays in cache; beside it stands what the HDF5
library takes for it, which knows one thread.
With ``--cold`` the file is not in the page cache at first: the first reading is the disk's.
Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import imagecodecs
import numpy as np
import zarr
from contenders import SIZES, thc
from floor import CHUNK_VOX, N_CORES, N_LEVELS, Chunks, encoding, on_all_cores, tuned_compressor
from make_input import NOISE_ON_SYNTHETIC, image_slice, parse_shape, texture_of
from measure import machine, remove, run_process

from contender import level_shapes  # isort: skip

SHAPE = (256, 1420, 2816)
DATASET = "exchange/data"
STORED_CHUNK = (16, 128, 128)  # a mebibyte, which is what the library's own cache holds
FILTERS = {"plain": {}, "chunked": {}, "deflate": {"compression": 1, "shuffle": True}}
READ_BYTES = 4 << 20
N_COLD = 3
LOW, HIGH = -0.002, 0.004  # attenuation of what is black and white in the texture


def make_file(path: Path, shape: tuple[int, int, int], layout: str, seed: int = 0) -> None:
    """Write the volume, unless it is there in that shape and layout."""
    if path.exists():
        with h5py.File(path) as file:
            if file[DATASET].shape == shape:
                return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    base = texture_of(None, shape[1:], seed)
    chunks = None
    if layout != "plain":
        chunks = tuple(min(c, n) for c, n in zip(STORED_CHUNK, shape, strict=True))
    with h5py.File(path, "w") as file:
        data = file.create_dataset(DATASET, shape, "f4", chunks=chunks, **FILTERS[layout])
        data.attrs["axes"] = "z:y:x"
        depth = STORED_CHUNK[0]
        for z in range(0, shape[0], depth):
            planes = range(z, min(shape[0], z + depth))
            slab = [image_slice(base, i, shape[1:], seed, NOISE_ON_SYNTHETIC) for i in planes]
            rng = np.random.default_rng([seed, 3, z])
            # A reconstruction has no two equal voxels: what is below a grey level is noise too.
            fine = rng.random((len(slab), *shape[1:]), np.float32)
            data[z : z + depth] = LOW + (np.stack(slab) + fine) * np.float32((HIGH - LOW) / 256)


class Stored:
    """The bytes of the dataset, and how one core gets at its share of them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with h5py.File(path) as file:
            data = file[DATASET]
            self.n_bytes = data.size * data.dtype.itemsize
            self.deflated = data.compression is not None
            self.places: list[tuple[int, int]] = []
            if data.chunks is None:
                ends = [*range(0, self.n_bytes, READ_BYTES), self.n_bytes]
                offset = data.id.get_offset()
                self.places = [(offset + a, b - a) for a, b in itertools.pairwise(ends)]
                self.chunk_bytes = READ_BYTES
            else:
                data.id.chunk_iter(lambda info: self.places.append((info.byte_offset, info.size)))
                self.chunk_bytes = math.prod(data.chunks) * data.dtype.itemsize

    def read(self, core: int) -> int:
        """Read and decode every ``N_CORES``-th piece, in buffers that are used again."""
        packed = np.empty(2 * self.chunk_bytes, np.uint8)
        decoded, voxels = np.empty(self.chunk_bytes, np.uint8), np.empty(self.chunk_bytes, np.uint8)
        fd = os.open(self.path, os.O_RDONLY)
        try:
            for offset, size in self.places[core::N_CORES]:
                os.preadv(fd, [packed[:size]], offset)
                if self.deflated:
                    imagecodecs.deflate_decode(packed[:size], out=decoded)
                    voxels.reshape(-1, 4)[...] = decoded.reshape(4, -1).T
        finally:
            os.close(fd)
        return self.n_bytes // N_CORES


def read_by_library(path: Path) -> float:
    """Return the seconds that the HDF5 library takes to read all voxels, into memory used again."""
    with h5py.File(path) as file:
        data = file[DATASET]
        depth = STORED_CHUNK[0]
        voxels = np.zeros((depth, *data.shape[1:]), data.dtype)
        start = time.perf_counter()
        for z in range(0, data.shape[0], depth):
            n = min(depth, data.shape[0] - z)
            data.read_direct(voxels, np.s_[z : z + n], np.s_[:n])
        return time.perf_counter() - start


def forget(path: Path) -> None:
    """Take a file out of the page cache."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def first_reading(path: Path, stored: Stored) -> float:
    """Return the seconds to read and decode a file that is not in the page cache."""
    found = []
    for _ in range(N_COLD):
        forget(path)
        start = time.perf_counter()
        with ThreadPoolExecutor(N_CORES) as pool:
            list(pool.map(stored.read, range(N_CORES)))
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def limit(
    path: Path, shape: tuple[int, ...], chunks: Sequence[np.ndarray], cold: bool = False
) -> dict[str, Any]:
    """Return the seconds to read and decode the file twice and to compress 8-bit levels once."""
    stored = Stored(path)
    first = first_reading(path, stored) if cold else None
    reading = on_all_cores(stored.read)
    shares = [Chunks(list(chunks[core::N_CORES])) for core in range(N_CORES)]
    encode = encoding(shares, tuned_compressor)
    level_gb = sum(math.prod(s) for s in level_shapes(shape, N_LEVELS)) / 1e9
    read_s = reading["wall_s"] * stored.n_bytes / 1e9
    encode_s = encode["wall_s"] * level_gb
    return {
        "wall_s": (read_s if first is None else first) + read_s + encode_s,
        "first_reading_s": first,
        "read_once_s": read_s,
        "encode_s": encode_s,
        "library_reads_once_s": read_by_library(path),
        "read_gb_per_s": 1 / reading["wall_s"],
        "zstd_ratio": encode["ratio"],
    }


def some_chunks(store: Path, n: int = 128) -> list[np.ndarray]:
    """Return chunks of level 0 of a store, from all over it."""
    array = zarr.open_array(str(store / "0" / "image"), mode="r")
    places = [range(0, max(1, size - CHUNK_VOX + 1), CHUNK_VOX) for size in array.shape]
    starts = [(z, y, x) for z in places[0] for y in places[1] for x in places[2]]
    step = max(1, len(starts) // n)
    cut = [tuple(slice(a, a + CHUNK_VOX) for a in start) for start in starts[::step]]
    return [np.ascontiguousarray(array[where]) for where in cut]


def check(path: Path, store: Path) -> dict[str, Any]:
    """Return whether level 0 is what the recorded window makes of the voxels, at some places."""
    attributes = zarr.open_group(str(store), mode="r").attrs["thc"]
    low, high = attributes["normalisation"]["window"]
    array = zarr.open_array(str(store / "0" / "image"), mode="r")
    differs = 0
    with h5py.File(path) as file:
        data = file[DATASET]
        for z in np.linspace(0, data.shape[0] - 1, 5).astype(int):
            voxels = np.clip(data[z].astype(np.float64), low, high)
            expected = np.rint((voxels - low) * (255 / (high - low))).astype(np.uint8)
            differs += int((expected != array[z]).sum())
    return {"agrees": differs == 0, "window": [low, high]}


def apart(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function in a process of its own: a child's peak memory starts at its parent's."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """Return the runs, the limits around them, and what part of the limit is reached."""
    path = args.work / f"{args.layout}.h5"
    store = args.work / "hdf5.ome.zarr"
    apart(make_file, path, args.shape, args.layout)
    line = thc("convert", str(path), str(store), "--spacing", "1.17um", *SIZES, "--window", "auto")
    runs, limits, checked = [], [], {}
    for i in range(args.runs + 1):
        remove(store)
        if args.cold:
            forget(path)
        run = run_process(line, store)
        if i == 0:  # pays for fresh memory and cold files
            checked, chunks = apart(check, path, store), apart(some_chunks, store)
            limits.append(apart(limit, path, args.shape, chunks, args.cold))
        else:
            runs.append(run.as_dict())
    limits.append(apart(limit, path, args.shape, chunks, args.cold))
    remove(store)
    wall = statistics.median(run["wall_s"] for run in runs)
    allowed = statistics.median(found["wall_s"] for found in limits)
    # What a program that reads through the library could do at best.
    by_library = statistics.median(
        2 * found["library_reads_once_s"] + found["encode_s"] for found in limits
    )
    return {
        "layout": args.layout,
        "cold": args.cold,
        "shape": list(args.shape),
        "wall_s": wall,
        "cpu_s": statistics.median(run["cpu_s"] for run in runs),
        "peak_mb": max(run["peak_bytes"] for run in runs) / 1e6,
        "limit_s": allowed,
        "reached": allowed / wall,
        "library_limit_s": by_library,
        "reached_of_library": by_library / wall,
        "check": checked,
        "limits": limits,
        "runs": runs,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--layout", choices=sorted(FILTERS), default="plain")
    parser.add_argument("--shape", type=parse_shape, default=SHAPE, help="z,y,x voxels")
    parser.add_argument("--cold", action="store_true", help="first reading from the disk")
    parser.add_argument("--runs", type=int, default=3, help="runs to keep; one more is dropped")
    parser.add_argument("--work", type=Path, default=Path("/tmp/thc-bench"))
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    found = {"date": datetime.now(UTC).date().isoformat(), "machine": machine(), **measure(args)}
    print(json.dumps(found))
    if args.json:
        args.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
