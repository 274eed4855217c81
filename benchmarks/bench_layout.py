"""Chunk, shard and codec: what each choice costs, for docs/decisions/0002.

    python benchmarks/bench_layout.py codec SLICE.tif [--noise 0,2,5,10]
    python benchmarks/bench_layout.py layout INPUT [--layouts 32:128,64:256,64:256:zstd:3]
    python benchmarks/bench_layout.py read STORE

``codec`` packs and unpacks 64^3 chunks of a slice under noise of several strengths, on one core.
``layout`` converts a folder of slices (``make_input.py`` makes one) as whole processes and then
reads the store back; the layouts go forth and back, and the first run of each block is dropped.
``read`` is what ``layout`` calls in a process of its own. Tables give medians of conversions and
the best of readings; --json keeps all.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from measure import machine, remove, run_process

HERE = Path(__file__).resolve()
CHUNK_VOX = 64
CODECS = ("zstd", "zstd:1", "zstd:3", "zstd:9", "lz4", "blosc-lz4-bits", "blosc-zstd-bits")
LAYOUTS = ("32:128", "32:256", "32:512", "64:128", "64:256", "64:512", "128:128", "128:256",
           "128:512", "64:256:zstd:1", "64:256:zstd:3")  # fmt: skip
N_ROUNDS = 2
BOX_VOX = 128  # 150 um of the reference volume
N_BOXES = 24
PACKAGES = ("thc_dask", "numpy", "zstandard", "imagecodecs")

Pack = Callable[[Any], bytes]
Unpack = Callable[[bytes], Any]


# ---- codecs -------------------------------------------------------------------------------


def codec(name: str) -> tuple[Pack, Unpack]:
    """Return how one codec packs a chunk and unpacks it."""
    import imagecodecs
    import zstandard

    from thc_dask.store.shards import Codec

    if name == "lz4":
        return partial(imagecodecs.lz4_encode, header=True), partial(
            imagecodecs.lz4_decode, header=True
        )
    if name.startswith("blosc"):
        inner = name.split("-")[1]

        def pack(chunk: Any) -> bytes:
            options = {"compressor": inner, "shuffle": "bitshuffle", "typesize": 1}
            return bytes(imagecodecs.blosc_encode(chunk, level=1, numthreads=1, **options))

        return pack, imagecodecs.blosc_decode
    return Codec.parse(name).compressor().compress, zstandard.ZstdDecompressor().decompress


def noisy_chunks(texture: Any, noise: float, every: int = 6) -> list[Any]:
    """Return some 64^3 chunks, contiguous, of 64 planes of the texture under noise."""
    import numpy as np
    from make_input import image_slice

    shape_yx = (texture.shape[0], min(2816, texture.shape[1]))
    planes = (image_slice(texture, z, shape_yx, 0, noise) for z in range(CHUNK_VOX))
    slab = np.stack(list(planes))
    places = [
        (y, x)
        for y in range(0, shape_yx[0] - CHUNK_VOX + 1, CHUNK_VOX)
        for x in range(0, shape_yx[1] - CHUNK_VOX + 1, CHUNK_VOX)
    ]
    return [
        np.ascontiguousarray(slab[:, y : y + CHUNK_VOX, x : x + CHUNK_VOX])
        for y, x in places[::every]
    ]


def codec_costs(chunks: list[Any], passes: int) -> dict[str, dict[str, float]]:
    """Return ratio and GB/s of every codec; codecs take turns, the first pass is dropped."""
    speed: dict[str, dict[str, list[float]]] = {n: {"pack": [], "unpack": []} for n in CODECS}
    pairs = {name: codec(name) for name in CODECS}
    n_bytes = sum(chunk.nbytes for chunk in chunks)
    packed: dict[str, list[bytes]] = {}
    for _ in range(passes + 1):
        for name, (pack, unpack) in pairs.items():
            start = time.perf_counter()
            packed[name] = [pack(chunk) for chunk in chunks]
            middle = time.perf_counter()
            for data in packed[name]:
                unpack(data)
            end = time.perf_counter()
            speed[name]["pack"].append(n_bytes / 1e9 / (middle - start))
            speed[name]["unpack"].append(n_bytes / 1e9 / (end - middle))
    return {
        name: {
            "ratio": n_bytes / sum(map(len, packed[name])),
            "pack_gb_per_s": statistics.median(runs["pack"][1:]),
            "unpack_gb_per_s": statistics.median(runs["unpack"][1:]),
        }
        for name, runs in speed.items()
    }


def codec_job(args: argparse.Namespace) -> dict[str, Any]:
    """Return what every codec costs under every noise, and print it as a table."""
    from make_input import texture_of

    texture = texture_of(args.source, (0, 0), 0)
    results = {}
    for noise in [float(part) for part in args.noise.split(",")]:
        results[f"{noise:g}"] = codec_costs(noisy_chunks(texture, noise), args.runs)
    columns = [f"noise {noise}: ratio, pack, unpack" for noise in results]
    print(row(["codec", *columns]), row(["---"] * (len(columns) + 1)), sep="\n")
    for name in CODECS:
        cells = [
            "{ratio:.2f}, {pack_gb_per_s:.2f}, {unpack_gb_per_s:.2f}".format(**costs[name])
            for costs in results.values()
        ]
        print(row([name, *cells]))
    return results


# ---- layouts ------------------------------------------------------------------------------


def blocks(layouts: list[str], runs: int) -> Iterator[tuple[str, int]]:
    """Yield layouts forth and back, with the number of runs to keep of each block."""
    for i in range(N_ROUNDS):
        for layout in layouts[:: -1 if i % 2 else 1]:
            if keep := len(range(i, runs, N_ROUNDS)):
                yield layout, keep


def layout_job(args: argparse.Namespace) -> dict[str, Any]:
    """Return what conversion to every layout and reading it back take, and print a table."""
    layouts = args.layouts.split(",")
    results: dict[str, Any] = {layout: {"runs": [], "reads": []} for layout in layouts}
    with tempfile.TemporaryDirectory(dir=args.work) as work:
        for layout, keep in blocks(layouts, args.runs):
            store = Path(work) / "store.ome.zarr"
            for i in range(keep + 1):
                remove(store)
                run = run_process(convert_command(args.source, store, layout), store)
                print(f"{layout}: {run.wall_s:.2f} s", file=sys.stderr, flush=True)
                if i:
                    results[layout]["runs"].append(run.as_dict())
            reads = run_process([sys.executable, str(HERE), "read", str(store)], store)
            results[layout]["reads"].append(reads.report)
    print_layouts(results)
    return results


def convert_command(source: Path, store: Path, layout: str) -> list[str]:
    """Return the command line of one conversion; a layout is ``chunk:shard[:codec]``."""
    chunk, shard, *codec = layout.split(":", 2)
    line = [str(Path(sys.executable).parent / "thc"), "convert", str(source), str(store)]
    sizes = ["--spacing", "1.17um", "--levels", "5", "--chunk", chunk, "--shard", shard]
    return [*line, *sizes, "--codec", *(codec or ["zstd"])]


def read_job(args: argparse.Namespace) -> dict[str, Any]:
    """Return how long a store's finest level takes to read: all, a box, and planes."""
    import numpy as np

    from thc_dask.grid import Extent
    from thc_dask.reader import read
    from thc_dask.store.read import Store

    image = Store(args.source).image()
    n = image.shape
    rng = np.random.default_rng(0)
    size = [min(BOX_VOX, m) for m in n]
    starts = rng.integers(0, np.array(n) - size + 1, (N_BOXES, 3))
    boxes = [Extent(tuple(s), tuple(s + size)) for s in starts]
    planes = [
        Extent(
            tuple(m // 2 if i == axis else 0 for i, m in enumerate(n)),
            tuple(m // 2 + 1 if i == axis else m for i, m in enumerate(n)),
        )
        for axis in range(3)
    ]

    def seconds(extent: Extent) -> float:
        start = time.perf_counter()
        read(image, extent)
        return time.perf_counter() - start

    for extent in (*boxes, *planes):  # what is on disk comes into memory first
        seconds(extent)
    names = [f"plane_{axis}_ms" for axis in "zyx"]
    times = [1e3 * statistics.median(seconds(plane) for _ in range(5)) for plane in planes]
    return {
        "box_ms": 1e3 * statistics.median(map(seconds, boxes)),
        **dict(zip(names, times, strict=True)),
        "all_s": decode_all(image),
    }


def decode_all(image: Any) -> float:
    """Return the seconds to decode every chunk on all cores, of the better of two passes."""
    from thc_dask.grid import Extent

    places = image.chunks(Extent((0, 0, 0), image.shape))
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    def work(core: int) -> None:
        for place in places[core::n_cores]:
            image.get(place)

    found = []
    with ThreadPoolExecutor(n_cores) as pool:
        for _ in range(2):
            start = time.perf_counter()
            list(pool.map(work, range(n_cores)))
            found.append(time.perf_counter() - start)
    return min(found)


def print_layouts(results: dict[str, Any]) -> None:
    """Print one line for each layout."""
    head = ["chunk:shard:codec", "wall s (min-max)", "CPU s", "peak MB", "written MB", "files"]
    head += ["read all s", "box ms", "plane z, y, x ms"]
    print(row(head), row(["---"] * len(head)), sep="\n")
    for layout, entry in results.items():

        def median(key: str, entry: Any = entry) -> float:
            return statistics.median(run[key] for run in entry["runs"])

        def best(key: str, entry: Any = entry) -> float:
            return min(read[key] for read in entry["reads"])

        walls = [run["wall_s"] for run in entry["runs"]]
        planes = ", ".join(f"{best(f'plane_{axis}_ms'):.0f}" for axis in "zyx")
        cells = [
            layout,
            f"{median('wall_s'):.2f} ({min(walls):.2f}-{max(walls):.2f})",
            f"{median('cpu_s'):.2f}",
            f"{median('peak_bytes') / 1e6:.0f}",
            f"{median('written_bytes') / 1e6:.0f}",
            f"{median('n_files'):.0f}",
            f"{best('all_s'):.2f}",
            f"{best('box_ms'):.1f}",
            planes,
        ]
        print(row(cells))


def row(cells: list[str]) -> str:
    """Return a line of a markdown table."""
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("job", choices=["codec", "layout", "read"])
    parser.add_argument("source", type=Path, help="a slice, a folder of slices, or a store")
    parser.add_argument("--noise", default="0,2,5,10", help="grey levels (sd), for codec")
    parser.add_argument("--layouts", default=",".join(LAYOUTS), help="chunk:shard[:codec]")
    parser.add_argument("--runs", type=int, default=4, help="runs or passes to keep of each")
    parser.add_argument("--work", type=Path, help="where stores are written; default: temporary")
    parser.add_argument("--json", type=Path, help="where all runs are kept")
    args = parser.parse_args()
    if args.job == "read":
        print(json.dumps(read_job(args)))
        return
    results = (codec_job if args.job == "codec" else layout_job)(args)
    packages = {name: version(name) for name in PACKAGES}
    record = {"job": args.job, "machine": machine(), "packages": packages, "results": results}
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    print(f"\n{json.dumps(record['machine'] | packages)}")


if __name__ == "__main__":
    main()
