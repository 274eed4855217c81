"""What the machine itself allows: seconds for the job at the rates of its unavoidable stages.

    python benchmarks/floor.py convert INPUT --work DIR
    python benchmarks/floor.py count STORE

For ``convert`` each stage runs alone, on every core at once, on voxels of the input and in buffers
that are used again; the seconds of the whole job follow from its rate. For ``count`` the very
chunks of the store are decoded on every core, and nothing is done with them. Prints one line
of JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import mmap
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import zstandard

# under the name that the contenders use too: numba's cache knows a module by its name
sys.path.insert(0, str(Path(__file__).parent / "peers"))
from contender import Slices, level_shapes
from halve import halve_into

N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
CHUNK_VOX = 64
N_STRIPS = 4  # of one chunk's height, for each core
N_LEVELS = 5
N_PASSES = 5
FILE_BYTES = 12 << 20  # what a shard of 256^3 weighs
FILES_PER_CORE = 4
BLOCK_BYTES = 4096
BUFFER_BYTES = 2 << 20
ABSENT = 2**64 - 1


def on_all_cores(work: Callable[[int], int]) -> dict[str, float]:
    """Return what ``work(core)`` needs for a gigabyte, on all cores at once: medians of passes."""
    wall, cpu = [], []
    with ThreadPoolExecutor(N_CORES) as pool:
        for _ in range(N_PASSES + 1):
            start, cpu_start = time.perf_counter(), time.process_time()
            gigabytes = sum(pool.map(work, range(N_CORES))) / 1e9
            wall.append((time.perf_counter() - start) / gigabytes)
            cpu.append((time.process_time() - cpu_start) / gigabytes)
    # the first pass touches fresh memory
    return {"wall_s": statistics.median(wall[1:]), "cpu_s": statistics.median(cpu[1:])}


class Chunks:
    """Chunks that lie in one piece each, for one core to compress."""

    def __init__(self, chunks: list[np.ndarray]) -> None:
        self.chunks = chunks
        self.n_bytes = sum(chunk.nbytes for chunk in chunks)
        self.n_encoded_bytes = 0

    def encode(self, compressor: zstandard.ZstdCompressor) -> int:
        """Compress them."""
        self.n_encoded_bytes = sum(len(compressor.compress(chunk)) for chunk in self.chunks)
        return self.n_bytes


class Slab(Chunks):
    """Some planes of the input and the chunks in them: what one core works on."""

    def __init__(self, slices: Slices, core: int) -> None:
        n_z, n_y, n_x = slices.shape
        shape = min(CHUNK_VOX, n_z), min(N_STRIPS * CHUNK_VOX, n_y), n_x
        self.slices = slices
        # spread over the height: what is outside the tissue compresses better than what is in it
        last = max(0, n_y - CHUNK_VOX)
        places = (np.arange(N_STRIPS) + (core + 0.5) / N_CORES) / N_STRIPS
        self.rows = [int(place * last) for place in places]
        self.voxels = np.zeros(shape, np.uint8)
        self.half = np.zeros([-(-n // 2) for n in shape], np.uint8)
        self.chunk = np.zeros((CHUNK_VOX,) * 3, np.uint8)
        self.parts = [
            self.voxels[:, y : y + CHUNK_VOX, x : x + CHUNK_VOX]
            for y in range(0, shape[1], CHUNK_VOX)
            for x in range(0, n_x, CHUNK_VOX)
        ]
        self.read()
        super().__init__([np.ascontiguousarray(part) for part in self.parts])

    def read(self) -> int:
        """Read pages into memory that is there."""
        for i, row in enumerate(self.rows):
            strip = self.voxels[:, i * CHUNK_VOX : (i + 1) * CHUNK_VOX]
            self.slices.read(strip, 0, row)
        return self.voxels.nbytes

    def gather(self) -> int:
        """Bring each chunk into one piece, always in the same buffer."""
        for part in self.parts:
            self.chunk[tuple(slice(0, n) for n in part.shape)] = part
        return self.voxels.nbytes

    def mean(self) -> int:
        """Halve the planes."""
        halve_into(self.voxels, self.half)
        return self.voxels.nbytes


def tuned_compressor() -> zstandard.ZstdCompressor:
    """Return zstd that hardly searches: CT noise has no repeats, what compresses is entropy."""
    parameters = zstandard.ZstdCompressionParameters(
        window_log=18, hash_log=8, min_match=7, strategy=zstandard.STRATEGY_FAST
    )
    return zstandard.ZstdCompressor(compression_params=parameters)


def encoding(
    slabs: Sequence[Chunks], compressor: Callable[[], zstandard.ZstdCompressor]
) -> dict[str, float]:
    """Return the cost of a gigabyte and the ratio that one kind of zstd frame reaches."""
    compressors = [compressor() for _ in slabs]
    cost = on_all_cores(lambda core: slabs[core].encode(compressors[core]))
    n_bytes = sum(slab.n_bytes for slab in slabs)
    return cost | {"ratio": n_bytes / sum(slab.n_encoded_bytes for slab in slabs)}


def writing(work: Path, most_bytes: int, direct: int = 0) -> dict[str, float]:
    """Return the cost of a gigabyte in files of a shard's size, each flushed to the disk.

    ``direct`` is a flag to open them with: past the page cache.
    """
    n = max(BLOCK_BYTES, min(FILE_BYTES, most_bytes) // BLOCK_BYTES * BLOCK_BYTES)
    payload = mmap.mmap(-1, n)  # aligned, as direct writes must be
    payload.write(os.urandom(n))

    def write(core: int) -> int:
        for i in range(FILES_PER_CORE):
            fd = os.open(work / f"floor-{core}-{i}", os.O_WRONLY | os.O_CREAT | direct)
            for offset in range(0, n, BUFFER_BYTES):
                os.pwrite(fd, memoryview(payload)[offset : offset + BUFFER_BYTES], offset)
            os.fsync(fd)
            os.close(fd)
        return FILES_PER_CORE * n

    try:
        return on_all_cores(write)
    finally:
        for path in work.glob("floor-*"):
            path.unlink()


def fastest_writing(work: Path, most_bytes: int) -> dict[str, float]:
    """Return the cost of writing through the page cache or past it, whichever is less."""
    cached = writing(work, most_bytes)
    try:
        direct = writing(work, most_bytes, getattr(os, "O_DIRECT", 0))
    except OSError:  # the file system has no such thing
        return cached
    return min(cached, direct, key=lambda cost: cost["wall_s"])


def convert_floor(folder: Path, work: Path) -> dict[str, Any]:
    """Return the seconds of a conversion by stage, their sum, and the rates behind them."""
    slices = Slices(folder)
    slabs = [Slab(slices, core) for core in range(N_CORES)]
    costs = {
        "read": on_all_cores(lambda core: slabs[core].read()),
        "gather": on_all_cores(lambda core: slabs[core].gather()),
        "mean": on_all_cores(lambda core: slabs[core].mean()),
        "encode": encoding(slabs, tuned_compressor),
        "write": fastest_writing(work, math.prod(slices.shape)),
    }
    level_gb = [math.prod(shape) / 1e9 for shape in level_shapes(slices.shape, N_LEVELS)]
    amounts = {
        "read": level_gb[0],
        "gather": sum(level_gb),
        "mean": sum(level_gb[:-1]),
        "encode": sum(level_gb),
        "write": sum(level_gb) / costs["encode"]["ratio"],
    }
    wall = {stage: costs[stage]["wall_s"] * amounts[stage] for stage in amounts}
    cpu = {stage: costs[stage]["cpu_s"] * amounts[stage] for stage in amounts}
    return {
        "wall_s": sum(wall.values()),
        "cpu_s": sum(cpu.values()),
        "wall_s_if_writing_hides": max(wall["write"], sum(wall.values()) - wall["write"]),
        "stages_wall_s": wall,
        "gb_per_s": {stage: 1 / costs[stage]["wall_s"] for stage in costs},
        "zstd_ratio": costs["encode"]["ratio"],
        "zstd_1": encoding(slabs, lambda: zstandard.ZstdCompressor(level=1)),
        "n_cores": N_CORES,
    }


def chunks_of(array: Path) -> list[tuple[memoryview, int, int]]:
    """Return (file, offset, size) of every chunk that a sharded array stores."""
    codecs = json.loads((array / "zarr.json").read_text())
    sharding = codecs["codecs"][0]["configuration"]
    shard = codecs["chunk_grid"]["configuration"]["chunk_shape"]
    n = math.prod(s // c for s, c in zip(shard, sharding["chunk_shape"], strict=True))
    found = []
    for path in sorted(p for p in (array / "c").rglob("*") if p.is_file()):
        with path.open("rb") as file:
            data = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
        index = np.frombuffer(data, "<u8", count=2 * n, offset=len(data) - 16 * n - 4)
        found += [(data, int(o), int(s)) for o, s in index.reshape(n, 2) if o != ABSENT]
    return found


def count_floor(store: Path) -> dict[str, Any]:
    """Return the seconds to decode every chunk of the image and the labels on all cores."""
    image = chunks_of(store / "0" / "image")
    chunks = image + chunks_of(store / "labels" / "roi" / "0" / "roi")
    image_s = decode(image)
    both_s = decode(chunks)
    return {
        "wall_s": both_s["wall_s"],
        "cpu_s": both_s["cpu_s"],
        "image_only": image_s,
        "n_chunks": len(chunks),
        "n_cores": N_CORES,
    }


def decode(chunks: list[tuple[memoryview, int, int]]) -> dict[str, float]:
    """Return the medians of decoding these chunks, dealt out to all cores."""
    decompressors = [zstandard.ZstdDecompressor() for _ in range(N_CORES)]

    def work(core: int) -> int:
        for data, offset, size in chunks[core::N_CORES]:
            decompressors[core].decompress(data[offset : offset + size])
        return 10**9 // N_CORES

    return on_all_cores(work)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("job", choices=["convert", "count"])
    parser.add_argument("source", type=Path, help="folder of slices, or the store to count")
    parser.add_argument("--work", type=Path, default=Path("/tmp"), help="where to write")
    args = parser.parse_args()
    if args.job == "convert":
        print(json.dumps(convert_floor(args.source, args.work)))
    else:
        print(json.dumps(count_floor(args.source)))


if __name__ == "__main__":
    main()
