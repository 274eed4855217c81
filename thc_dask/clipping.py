"""How many voxels the window clipped: exact, whatever runs a conversion took.

Blocks are counted while they are read. Where a run went on with other blocks than the one before,
blocks overlap, and some were never read to their end: what no count holds just once is read again.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.grid import Extent, Vox, blocks, parse_extent
from thc_dask.progress import Progress, Standing, tell
from thc_dask.store.layout import Level
from thc_dask.store.target import Receipt, place_of
from thc_dask.views import EightBit

STEP = "clipped voxels"  # as progress calls it


def clipped(
    reader: EightBit, level: Level, receipts: Sequence[Receipt], progress: Progress | None = None
) -> dict[str, Any]:
    """Return what a store says of the voxels that were clipped.

    ``receipts`` are those of all columns below ``level``, the finest, whichever run made them.
    """
    sums = np.zeros(5, np.int64)
    counted: set[Vox] = set()
    for box, counts in _read_to_their_end(level, receipts):
        places = {place for place, _ in _columns(level, box)}
        if not places & counted:
            counted |= places
            sums += counts
    todo = list(_rows_without(level, counted))
    done, total = 0, sum(box.n_vox for box in todo)
    if todo:
        tell(progress, Standing(0, total, step=STEP))
    named = "the source, voxels {}".format
    for n_vox, found in schedule.run(_Counting(reader), todo, what=named, verb="window"):
        sums += found
        done += n_vox
        tell(progress, Standing(done, total, step=STEP))
    below, above, nan, low_inf, high_inf = sums.tolist()
    return {
        "n_below": below,
        "n_above": above,
        "n_nan": nan,
        "n_minus_inf": low_inf,
        "n_plus_inf": high_inf,
        "clipped_below": below / level.grid.n_vox,
        "clipped_above": above / level.grid.n_vox,
    }


@dataclass(frozen=True)
class _Counting:
    """Count what is clipped in one box, wherever it runs."""

    reader: EightBit

    def __call__(self, box: Extent) -> tuple[int, NDArray[np.int64]]:
        return box.n_vox, self.reader.clipped(box)


def _read_to_their_end(
    level: Level, receipts: Sequence[Receipt]
) -> Iterator[tuple[Extent, list[int]]]:
    """Yield the blocks that are known to have been counted as a whole, the largest first."""
    found = []
    for receipt in receipts:
        if "read" not in receipt:
            continue
        box = parse_extent(receipt["read"]["box"])
        # A column has the counts of what was read of its block until then: the last, of all of it.
        last = tuple((b - 1) // s for b, s in zip(box.stop, level.shard, strict=True))
        if place_of(receipt) == last:
            found.append((box, receipt["read"]["counts"]))
    yield from sorted(found, key=lambda f: (-f[0].n_vox, f[0].start))


def _columns(level: Level, box: Extent) -> Iterator[tuple[Vox, Extent]]:
    """Yield the place and the box of each shard of a block, x fastest."""
    for part in blocks(box.shape, level.shard):
        yield level.shard_place(part.shift(box.start)), part.shift(box.start)


def _rows_without(level: Level, places: Collection[Vox]) -> Iterator[Extent]:
    """Yield all other columns, those side by side along x as one box: rows are what files hold."""
    row: Extent | None = None
    for place, box in _columns(level, level.grid.extent):
        if place in places:
            continue
        if row is not None and (row.start[:2], row.stop[2]) == (box.start[:2], box.start[2]):
            row = Extent(row.start, box.stop)
            continue
        if row is not None:
            yield row
        row = box
    if row is not None:
        yield row
