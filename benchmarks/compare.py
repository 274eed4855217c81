"""Check what a contender wrote against the TIFF slices it was made from.

    python benchmarks/compare.py convert INPUT STORE --path "{level}/image" --levels 5
    python benchmarks/compare.py count TRUTH.npy TABLE.npy (or the package's STORE)

A count must equal the truth that ``make_input.py`` took from its own voxels. Of a conversion,
level 0 must hold the very voxels of the slices, and each further level must be within one grey
level of the 2 x 2 x 2 mean of the contender's own level before (rounding is free, and so is its
accumulation). Looks at random places, corners included. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
from itertools import pairwise, product
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr

BOX_VOX = 32
N_BOXES = 12


def boxes(shape: tuple[int, ...], seed: int) -> list[tuple[slice, ...]]:
    """Return boxes with even starts: the first and last corner and random ones."""
    rng = np.random.default_rng(seed)
    room = [max(0, n - BOX_VOX) for n in shape]
    starts = [[0] * 3, room] + [rng.integers(0, np.array(room) + 1) for _ in range(N_BOXES)]
    even = [[int(a) // 2 * 2 for a in start] for start in starts]
    return [
        tuple(slice(a, min(n, a + BOX_VOX)) for a, n in zip(start, shape, strict=True))
        for start in even
    ]


def slices_differ(files: list[Path], finest: Any) -> int:
    """Return the largest difference of level 0 from the slices, in grey levels."""
    worst = 0
    for box in boxes(finest.shape, 0):
        planes = [tifffile.imread(file)[box[1:]] for file in files[box[0]][::8]]
        found = finest[box][::8]
        worst = max(worst, int(np.abs(np.stack(planes).astype(int) - found).max()))
    return worst


def mean_differs(finer: Any, coarser: Any, seed: int) -> float:
    """Return the largest difference of a level from the mean of the one before."""
    worst = 0.0
    for box in boxes(finer.shape, seed):
        expected = mean(finer[box])
        target = tuple(slice(s.start // 2, -(-s.stop // 2)) for s in box)
        found = coarser[target].astype(float)
        # some contenders drop the last odd plane: then compare what they have
        common = tuple(slice(0, min(n)) for n in zip(expected.shape, found.shape, strict=True))
        worst = max(worst, float(np.abs(expected[common] - found[common]).max(initial=0)))
    return worst


def mean(block: np.ndarray) -> np.ndarray:
    """Return the mean of each 2 x 2 x 2 cell, over the voxels that exist at the edges."""
    total = np.zeros([-(-n // 2) for n in block.shape])
    n_vox = np.zeros_like(total)
    for a, b, c in product((0, 1), repeat=3):
        part = block[a::2, b::2, c::2]
        here = tuple(slice(0, n) for n in part.shape)
        total[here] += part
        n_vox[here] += 1
    return total / n_vox


def compare(folder: Path, store: Path, path: str, n_levels: int) -> dict[str, Any]:
    """Return the verdict and the differences, ready for JSON."""
    files = sorted(folder.glob("*.tif"))
    levels = [zarr.open_array(str(store / path.format(level=k)), mode="r") for k in range(n_levels)]
    # OME-Zarr writers of five dimensions put time and channel first
    levels = [np.squeeze(x) if x.ndim > 3 else x for x in levels]
    first = slices_differ(files, levels[0])
    means = [mean_differs(a, b, k) for k, (a, b) in enumerate(pairwise(levels))]
    good = first == 0 and all(d <= 1 for d in means)
    return {
        "agrees": good,
        "level_0_differs": first,
        "mean_differs": [round(d, 2) for d in means],
        "shapes": [list(x.shape) for x in levels],
    }


def compare_counts(truth: Path, counted: Path) -> dict[str, Any]:
    """Return whether two tables (label, intensity) are equal, ready for JSON."""
    if counted.suffix == ".npy":
        table = np.load(counted)
    else:
        planes = zarr.open_array(str(counted / "counts" / "roi" / "plane" / "counts"), mode="r")
        table = np.asarray(planes[:]).sum(axis=0)
    expected = np.load(truth)
    return {
        "agrees": bool(np.array_equal(expected, table)),
        "n_vox": int(table.sum()),
        "n_vox_expected": int(expected.sum()),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("job", choices=["convert", "count"])
    parser.add_argument("input", type=Path, help="folder of slices, or the true table")
    parser.add_argument("output", type=Path, help="what the contender wrote")
    parser.add_argument("--path", default="{level}/image")
    parser.add_argument("--levels", type=int, default=5)
    args = parser.parse_args()
    if args.job == "convert":
        found = compare(args.input, args.output, args.path, args.levels)
    else:
        found = compare_counts(args.input, args.output)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
