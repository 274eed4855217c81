"""How long it takes to fill a label set between annotated planes, and how right that is.

    python benchmarks/bench_interpolate.py [--shape 720,1420,5805] [--work DIR] [--json out.json]

The labels are those of the phantom, on the planes that the published regions are annotated on; the
image is empty, as nobody reads it. ``thc interpolate`` runs as a whole process. What it made is
held against the phantom's own regions, on planes in the middle of the gaps. Prints one line of
JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from measure import machine, remove, run_process

PLANES = (109, 159, 209, 259, 309, 359, 409, 410, 460)  # of 720


def prepare(store: Path, shape: tuple[int, int, int]) -> list[int]:
    """Make a store with annotated planes and return them."""
    import dask.array as da
    import xarray as xr

    from thc_dask import convert, labels

    planes = sorted({(2 * z + 1) * shape[0] // 1440 for z in PLANES})
    empty = da.zeros(shape, np.uint8, chunks=256)
    convert(xr.DataArray(empty, dims=("z", "y", "x")), store, spacing="1.17um")
    source = f"phantom:{','.join(map(str, shape))}?channel=roi"
    labels(source, store, "roi", "prasad2020-roi", planes=planes)
    return planes


def agreement(store: Path, planes: list[int]) -> dict[str, Any]:
    """Return Dice by region between what was filled and the phantom, in the middle of the gaps."""
    from thc_dask.grid import Extent
    from thc_dask.reader import read
    from thc_dask.sources.phantom import Phantom
    from thc_dask.store.read import Store

    made = Store(store).label_set("roi_interpolated")
    phantom = Phantom(made.store.grid.shape).labels("roi")
    middle = [(a + b) // 2 for a, b in pairwise(planes) if b - a > 1]
    n = len(made.scheme.labels)
    table, n_vox = np.zeros((n, n), np.int64), 0
    for z in middle:
        plane = Extent((z, 0, 0), (z + 1, *made.store.grid.shape[1:]))
        true = read(phantom, plane).astype(np.int64)
        found = read(made.array(), plane)
        known = np.zeros(true.shape, bool)
        for extent in made.extents:
            both = extent.intersect(plane)
            if both.n_vox:
                known[both.shift((-z, 0, 0)).slices] = True
        table += np.bincount((true * n + found)[known], minlength=n * n).reshape(n, n)
        n_vox += true.size
    both = np.diagonal(table)
    total = table.sum(axis=0) + table.sum(axis=1)
    dice = {
        name: round(float(2 * b / t), 4) if t else None
        for name, b, t in zip(made.scheme.names, both, total, strict=True)
    }
    known_share, right = float(table.sum() / n_vox), float(both.sum() / table.sum())
    return {"planes": middle, "dice": dice, "right": right, "known": known_share}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="720,1420,5805")
    parser.add_argument("--work", type=Path, default=None)
    parser.add_argument("--keep", action="store_true", help="leave the store there")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    z, y, x = (int(part) for part in args.shape.split(","))
    work = Path(args.work or tempfile.mkdtemp())
    store = work / "volume.ome.zarr"
    if not store.exists():
        prepare(store, (z, y, x))
    made = store / "labels" / "roi_interpolated"
    line = [sys.executable, "-m", "thc_dask", "interpolate", str(store), "--json", "--overwrite"]
    run = run_process(line, made)
    facts = {
        "machine": machine(),
        "shape": [z, y, x],
        "wall_s": run.wall_s,
        "cpu_s": run.cpu_s,
        "peak_bytes": run.peak_bytes,
        "written_bytes": run.written_bytes,
        "n_files": run.n_files,
        "n_known_vox": run.report["n_known_vox"],
        "leave_one_out": run.report["leave_one_out"],
        "agreement": agreement(store, run.report["annotated_planes"]),
    }
    text = json.dumps(facts)
    if args.json:
        args.json.write_text(text)
    if not args.keep:
        remove(store)
    print(text)


if __name__ == "__main__":
    main()
