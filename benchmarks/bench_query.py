"""How long a box takes to answer from a counted store, in this process, warm.

    python benchmarks/bench_query.py STORE [--by roi] [--boxes 50] [--json out.json]

Boxes of whole chunks of any size, and arbitrary boxes of up to 500 um a side. The voxels that are
read are held against the chunks that the box cuts. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine

from thc_dask.analysis.regions import histogram
from thc_dask.grid import Box, Extent
from thc_dask.index import index_of
from thc_dask.pairs import describe, make_pair
from thc_dask.store.read import Store

SIDE_UM = 500.0


def aligned_box(store: Store, rng: np.random.Generator) -> Box:
    """Return a box of whole chunks, of any size."""
    level = store.levels[0]
    ends = []
    for n, c in zip(level.grid.shape, level.chunk, strict=True):
        low, high = np.sort(rng.choice(-(-n // c) + 1, 2, replace=False))
        ends.append((int(low) * c, min(int(high) * c, n)))
    return box_of(store, Extent(*zip(*ends, strict=True)))


def any_box(store: Store, rng: np.random.Generator) -> Box:
    """Return a box of at most ``SIDE_UM`` a side, anywhere."""
    ends = []
    for n, p in zip(store.grid.shape, store.grid.spacing_um, strict=True):
        side = min(n, max(1, int(rng.uniform(0.2, 1.0) * SIDE_UM / p)))
        low = int(rng.integers(0, n - side + 1))
        ends.append((low, low + side))
    return box_of(store, Extent(*zip(*ends, strict=True)))


def box_of(store: Store, extent: Extent) -> Box:
    """Return the micrometers of a box of voxels, its faces between voxel centres."""
    ends = (
        tuple(t + p * (a - 0.5) for t, p, a in zip(g.origin_um, g.spacing_um, e, strict=True))
        for g, e in ((store.grid, extent.start), (store.grid, extent.stop))
    )
    return Box(*ends)


def ask(store: Store, by: str, box: Box) -> tuple[float, str]:
    """Return the seconds of one answer, from the call to numbers, and where it came from."""
    start = time.perf_counter()
    found = histogram(store, by, box)
    found.compute()
    return time.perf_counter() - start, found.attrs["answered_from"]


def cut_voxels(store: Store, by: str, box: Box) -> tuple[int, int]:
    """Return the voxels in the chunks that a box cuts, and in the box."""
    table = describe(store, make_pair(store, by))
    extent = store.grid.extent_of(box)
    array = store.image()
    cut = index_of(store, table).cut(extent)
    return sum(array.chunk_extent(place).n_vox for place in cut), extent.n_vox


def summary(seconds: list[float]) -> dict[str, float]:
    ms = [1000 * s for s in seconds]
    return {
        "median_ms": statistics.median(ms),
        "p95_ms": float(np.quantile(ms, 0.95)),
        "max_ms": max(ms),
    }


def measure(store: Store, by: str, n: int, seed: int) -> dict[str, Any]:
    """Return the times of both kinds of boxes."""
    rng = np.random.default_rng(seed)
    start = time.perf_counter()
    ask(store, by, aligned_box(store, rng))
    first = time.perf_counter() - start
    aligned, arbitrary, voxels = [], [], []
    for _ in range(n):
        seconds, source = ask(store, by, aligned_box(store, rng))
        assert source in ("chunk table", "plane table"), source
        aligned.append(seconds)
    for _ in range(n):
        box = any_box(store, rng)
        ask(store, by, box)  # once from the disk
        arbitrary.append(ask(store, by, box)[0])
        voxels.append(cut_voxels(store, by, box))
    return {
        "first_ms": 1000 * first,
        "aligned": summary(aligned),
        "arbitrary": summary(arbitrary),
        "cut_voxels_median": statistics.median(cut for cut, _ in voxels),
        "box_voxels_median": statistics.median(box for _, box in voxels),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("store", help="a store that thc count has counted")
    parser.add_argument("--by", default="roi")
    parser.add_argument("--boxes", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="also write the result here")
    args = parser.parse_args()
    store = Store(args.store)
    result = measure(store, args.by, args.boxes, args.seed)
    record = {"shape": store.grid.shape, "machine": machine(), **result}
    print(json.dumps(record))
    if args.json:
        args.json.write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
