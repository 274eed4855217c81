"""What a phantom holds, counted from its voxels by plain numpy and no other code here."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import get_args

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent
from thc_dask.reader import read
from thc_dask.sources.phantom.volume import Channel, Phantom

_SLAB_VOX, _PIECE_VOX = 1 << 26, 1 << 18

Progress = Callable[[int, int], None]

Slab = dict[str, NDArray[np.uint8]]
"""Some planes (z, y, x) of every channel, by its name."""


def annotated_planes(n_z: int) -> tuple[int, ...]:
    """Return the planes of the volume whose regions count as annotated, rising.

    They are the paper's eight (Prasad et al. 2020, Data Records), scaled from its 720 planes to
    ``n_z``; at least three where there are three.

    Examples
    --------
    >>> annotated_planes(720)
    (109, 159, 209, 259, 309, 359, 409, 459)
    >>> annotated_planes(48)
    (7, 10, 13, 17, 20, 23, 27, 30)
    """
    if n_z <= 3:
        return tuple(range(n_z))
    return tuple(sorted({(2 * plane + 1) * n_z // 1440 for plane in range(109, 460, 50)}))


@dataclass(frozen=True)
class Truth:
    """What a phantom holds, counted with ``np.bincount``; rows are region codes, 0 is none."""

    histogram: NDArray[np.int64]
    """Voxels (region, intensity), 9 x 256."""
    histogram_planes: NDArray[np.int64]
    """The same of the annotated planes only."""
    structures: NDArray[np.int64]
    """Voxels (region, structure), 9 x 4; structure 0 is background."""
    planes: NDArray[np.int64]
    """Voxels (plane, region)."""
    annotated: tuple[int, ...]
    """The annotated planes."""


def _count(truth: Truth, first: int, slab: Slab) -> None:
    """Add every voxel of a slab to the tables."""
    for z, planes in enumerate(zip(*slab.values(), strict=True), first):
        image, roi, structure = (plane.ravel() for plane in planes)
        both = np.zeros(9 * 4 * 256, np.int64)
        # bincount copies to int64: pieces that stay in the cache are several times as fast.
        for at in (slice(i, i + _PIECE_VOX) for i in range(0, image.size, _PIECE_VOX)):
            rows = roi[at].astype(np.uint16) * 4 + structure[at]
            both += np.bincount(rows * 256 + image[at], minlength=both.size)
        cube = both.reshape(9, 4, 256)
        truth.histogram[:] += cube.sum(axis=1)
        truth.structures[:] += cube.sum(axis=2)
        truth.planes[z] = cube.sum(axis=(1, 2))
        if z in truth.annotated:
            truth.histogram_planes[:] += cube.sum(axis=1)


def walk(
    phantom: Phantom,
    use: Callable[[int, Slab], None],
    threads: int | None,
    progress: Progress | None,
) -> Truth:
    """Make the volume in slabs, hand each and its first plane to ``use``, return what they hold.

    ``use`` runs in several threads at once.
    """
    nz, ny, nx = phantom.shape
    readers = {channel: replace(phantom, channel=channel) for channel in get_args(Channel)}
    step = max(1, min(8, _SLAB_VOX // (ny * nx)))

    def empty() -> Truth:
        grey, kinds = np.zeros((2, 9, 256), np.int64), np.zeros((9, 4), np.int64)
        return Truth(grey[0], grey[1], kinds, np.zeros((nz, 9), np.int64), annotated_planes(nz))

    def work(z: int) -> Truth:
        extent = Extent((z, 0, 0), (min(z + step, nz), ny, nx))
        slab = {channel: read(reader, extent) for channel, reader in readers.items()}
        use(z, slab)
        truth = empty()
        _count(truth, z, slab)
        return truth

    total = empty()
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for n, truth in enumerate(pool.map(work, range(0, nz, step)), 1):
            for name in ("histogram", "histogram_planes", "structures", "planes"):
                getattr(total, name)[:] += getattr(truth, name)
            if progress is not None:
                progress(min(n * step, nz), nz)
    return total


def true_tables(
    phantom: Phantom,
    *,
    threads: int | None = None,
    progress: Progress | None = None,
) -> Truth:
    """Return what the volume holds, counted over all its voxels without the rest of the package.

    Parameters
    ----------
    phantom
        Any channel of the volume.
    threads
        How many slabs of at most 8 planes are made at once; as many as processors, at most 8.
    progress
        Called with the planes that are done and all planes, now and then.

    Examples
    --------
    >>> truth = true_tables(Phantom((4, 40, 80)))
    >>> int(truth.histogram.sum()), truth.planes.sum(axis=1).tolist(), truth.annotated
    (12800, [3200, 3200, 3200, 3200], (0, 1, 2))
    """
    return walk(phantom, lambda z, slab: None, threads, progress)
