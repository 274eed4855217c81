"""Intensities by region from a store, with TensorStore and a compiled joint count in two threads.

Tuned on two cores: blocks of whole chunks are read ahead by TensorStore's own threads while
as many threads as there are cores count what has come; the store reads through memory maps.
"""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path

import numpy as np
import tensorstore as ts
from contender import Stages, arguments
from count_kernel import count_into

N_LABELS = 9
BLOCK_VOX = (64, 256, 256)
BLOCKS_AHEAD = 6


def open_array(path: Path, context: ts.Context):
    """Return an array of the store, opened to read."""
    spec = {"driver": "zarr3", "kvstore": {"driver": "file", "path": str(path)}}
    return ts.open(spec, open=True, read=True, context=context).result()


def count(image, labels) -> np.ndarray:
    """Return the table (label, intensity), int64."""
    boxes = [
        tuple(
            slice(a, min(n, a + s)) for a, n, s in zip(start, image.shape, BLOCK_VOX, strict=True)
        )
        for start in product(*(range(0, n, s) for n, s in zip(image.shape, BLOCK_VOX, strict=True)))
    ]
    under_way: deque = deque()
    total = np.zeros((N_LABELS, 256), np.int64)

    def count_one(reads) -> np.ndarray:
        even, odd = np.zeros((2, N_LABELS, 256), np.int64)
        count_into(*(np.ascontiguousarray(r.result()) for r in reads), even, odd)
        return even + odd

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for box in boxes:
            under_way.append(pool.submit(count_one, (labels[box].read(), image[box].read())))
            if len(under_way) > BLOCKS_AHEAD:
                total += under_way.popleft().result()
        for future in under_way:
            total += future.result()
    return total


def main() -> None:
    args = arguments(__doc__)
    stages = Stages()
    context = ts.Context({"file_io_mode": {"mode": "memmap"}})
    with stages("count"):
        image = open_array(args.input / "0" / "image", context)
        labels = open_array(args.input / "labels" / "roi" / "0" / "roi", context)
        table = count(image, labels)
    np.save(args.output, table)
    stages.report("tensorstore", "numba", "numpy")


if __name__ == "__main__":
    main()
