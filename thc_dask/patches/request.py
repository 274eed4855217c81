"""What is asked for, checked: which label set and regions, how large, how many, how far apart."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import RequestError
from thc_dask.grid import Extent, Grid, disjoint
from thc_dask.kernels.windows import Size
from thc_dask.merging import Merge, Merged, merged, parse_merge
from thc_dask.store.read import LabelSet, Store
from thc_dask.store.shards import ArrayReader


@dataclass(frozen=True)
class Request:
    """Views of one size, inside regions of one label set, at one level."""

    store: Store
    labels: LabelSet
    level: int
    size_um: float
    merged: Merged
    merge: dict[str, tuple[str, ...]]
    """The rules, as they were understood."""
    chosen: tuple[int, ...]
    """Which of the merged regions."""
    named: bool
    """Whether the user chose them; else those that do not occur are left out."""
    n: int | None
    """Patches of each region, train and test together; None is as many as all of them have."""
    test: float
    """Share of them that is for testing."""
    margin_um: float
    """Least distance along z of planes that are used."""
    seed: int

    @property
    def grid(self) -> Grid:
        """Where the voxels of the level are."""
        return self.store.levels[self.level].grid

    @property
    def size(self) -> Size:
        """Voxels of a patch (y, x)."""
        return self.size_of(self.size_um)

    def size_of(self, size_um: float) -> Size:
        """Return the voxels (y, x) of a patch of that size: the nearest whole numbers."""
        _, height, width = (max(1, math.floor(size_um / p + 0.5)) for p in self.grid.spacing_um)
        return height, width

    @property
    def names(self) -> tuple[str, ...]:
        """The regions that were chosen; number 1 is the first."""
        return tuple(self.merged.names[i] for i in self.chosen)

    @property
    def array(self) -> ArrayReader:
        """Codes of the level."""
        return self.labels.array(self.level)

    @property
    def numbers(self) -> NDArray[Any]:
        """The number of each code, 0 for those that were not chosen."""
        return self.merged.numbers(self.array.dtype, self.chosen)

    @cached_property
    def known(self) -> tuple[Extent, ...]:
        """Where labels are known, in voxels of the level; boxes that do not overlap."""
        return tuple(disjoint(e.level(self.level) for e in self.labels.extents))

    def rng(self, *stream: int) -> np.random.Generator:
        """Return what draws one thing; each stream draws by itself, whatever the others do."""
        return np.random.default_rng([self.seed, *stream])


def make_request(
    store: Store, by: str, size_um: float, n: int | None, regions: str | Sequence[str] | None,
    merge: Merge, test: float, margin_um: float, level: int, seed: int,
) -> Request:  # fmt: skip
    """Return what was asked for.

    Raises
    ------
    MissingError
        There is no such label set or region.
    RequestError
        Another option makes no sense; the message says what does.
    """
    labels = store.label_set(by)
    if not 0 <= level < len(store.levels):
        raise RequestError(f"level {level}: {store.url} has levels 0 to {len(store.levels) - 1}")
    coarsest = max(store.levels[level].grid.spacing_um[1:])
    if not (math.isfinite(size_um) and size_um >= coarsest):
        raise RequestError(
            f"size {size_um:g} um: a voxel of level {level} is {coarsest:g} um; give that or more"
        )
    if not 0 <= test < 1:
        raise RequestError(f"test {test:g}: give a share from 0 (no test patches) to below 1")
    if not (math.isfinite(margin_um) and margin_um >= 0):
        raise RequestError(f"margin {margin_um:g} um: give a distance of 0 or more")
    if seed < 0:
        raise RequestError(f"seed {seed}: give a whole number of at least 0")
    least = 2 if test else 1
    if n is not None and n < least:
        raise RequestError(
            f"{n} patches of each region: give {least} or more"
            + (", one to train and one to test; or --test 0" if test else "")
        )
    rules = parse_merge(merge)
    regions = regions.split(",") if isinstance(regions, str) else regions
    left = merged(labels.scheme, rules)
    chosen = range(len(left.names)) if regions is None else [left.index(r) for r in regions]
    if len(set(chosen)) < len(chosen) or not chosen:
        raise RequestError(
            f"regions {','.join(regions or ())}: name some, each once; known: "
            f"{', '.join(left.names)}"
        )
    return Request(
        store, labels, level, float(size_um), left, rules, tuple(sorted(chosen)),
        regions is not None, n, float(test), float(margin_um), seed,
    )  # fmt: skip
