"""What the contenders share: their arguments, their clock and the way they read TIFF pages.

The reading is the fastest that plain Python has (one ``preadv`` of the wanted rows straight into
the caller's memory), so that no peer loses time on it.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import numpy as np
import tifffile


def arguments(doc: str | None) -> argparse.Namespace:
    """Return ``input``, ``output``, ``levels``, ``chunk``, ``shard`` of the command line."""
    parser = argparse.ArgumentParser(description=(doc or "").partition("\n")[0])
    parser.add_argument("input", type=Path, help="folder of TIFF slices, or the store to count")
    parser.add_argument("output", type=Path, help="store to write, or file for the table (.npy)")
    parser.add_argument("--levels", type=int, default=5)
    parser.add_argument("--chunk", type=int, default=64)
    parser.add_argument("--shard", type=int, default=256)
    parser.add_argument("--array", default="image", help="name of the array in each level's group")
    return parser.parse_args()


class Stages:
    """A stop-watch with named stages; ``report`` prints one line of JSON."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[name] = round(time.perf_counter() - start, 3)

    def report(self, *packages: str) -> None:
        """Print the stages and the versions of the packages that mattered."""
        print(json.dumps({"stages_s": self.seconds, "versions": {p: version(p) for p in packages}}))


class Slices:
    """A folder of TIFF slices, one page each, all alike; ``shape`` is (z, y, x)."""

    def __init__(self, folder: Path) -> None:
        self.files = sorted(folder.glob("*.tif"))
        with tifffile.TiffFile(self.files[0]) as tiff:
            page = tiff.pages[0]
            self.dtype = np.dtype(page.dtype)
            self.offset = page.dataoffsets[0]
            self.plain = page.compression == 1 and page.is_contiguous
            self.shape = (len(self.files), *page.shape)

    def read(self, out: np.ndarray, z: int, y: int = 0) -> np.ndarray:
        """Fill ``out`` (z, y, x; whole rows) from slice ``z`` and row ``y`` on, and return it."""
        for plane, file in zip(out, self.files[z:], strict=False):
            if self.plain:
                self._read_rows(file, plane, y)
            else:
                plane[:] = tifffile.imread(file)[y : y + len(plane)]
        return out

    def _read_rows(self, file: Path, plane: np.ndarray, y: int) -> None:
        fd = os.open(file, os.O_RDONLY)
        try:
            start = self.offset + y * plane.shape[1] * plane.itemsize
            if os.preadv(fd, [plane], start) != plane.nbytes:
                raise OSError(f"{file}: ends too early")
        finally:
            os.close(fd)


def level_shapes(shape: tuple[int, ...], n_levels: int) -> list[tuple[int, ...]]:
    """Return the shape of each level; each halves the one before, rounded up."""
    return [tuple(-(-n >> k) for n in shape) for k in range(n_levels)]
