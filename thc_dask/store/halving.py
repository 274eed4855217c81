"""How a level is made from the one before: the mean of an image, the mode of labels."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Vox
from thc_dask.kernels.mean import mean, mean_code
from thc_dask.store.shards import scratch


class Halving(Protocol):
    """How the next level is made."""

    def halve(self, src: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        """Fill ``dst`` from ``src``, the voxels of ``level`` that begin at ``start``."""

    def halve_row(self, chunks: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        """Fill ``dst`` from (chunk, z, y, x): chunks side by side along x, of even sizes."""

    def code(self, dtype: np.dtype[Any]) -> int:
        """Return the address of machine code as ``kernels.mean`` has it, 0 where there is none."""


@dataclass(frozen=True)
class MeanOfVoxels:
    """Image pyramids: the mean of the voxels that exist."""

    def halve(self, src: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        mean(src, dst)

    def halve_row(self, chunks: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        n, _, _, x = chunks.shape
        # One call for all: threads that make many short ones wait for one another.
        mean(chunks, dst.reshape(*dst.shape[:2], n, x // 2).transpose(2, 0, 1, 3))

    def code(self, dtype: np.dtype[Any]) -> int:
        return mean_code(dtype)


@dataclass(frozen=True)
class ModeOfKnown:
    """Label pyramids: the mode of the known voxels."""

    extents: tuple[Extent, ...]
    """Where labels are known, in voxels of level 0."""

    def halve(self, src: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        z, y, x = start
        here = Extent(start, (z + src.shape[0], y + src.shape[1], x + src.shape[2]))
        known = [e.level(level).intersect(here) for e in self.extents]
        known = [e for e in known if e.n_vox]
        if not known:
            dst[...] = 0
            return
        # Compiled code, and half a second to load: only labels need it.
        from thc_dask.kernels.mode import mode

        if here in known:
            mode(src, dst)
        else:
            mask = scratch.array("known", src.shape, np.dtype(np.uint8))
            mask[...] = 0
            for extent in known:
                mask[extent.shift((-z, -y, -x)).slices] = 1
            mode(src, dst, mask)

    def halve_row(self, chunks: NDArray[Any], dst: NDArray[Any], level: int, start: Vox) -> None:
        (z, y, x), width = start, chunks.shape[3]
        for i, chunk in enumerate(chunks):
            half = dst[:, :, i * width // 2 : (i + 1) * width // 2]
            self.halve(chunk, half, level, (z, y, x + i * width))

    def code(self, dtype: np.dtype[Any]) -> int:
        return 0
