"""Write the waves of a pyramid, one after the other, on whatever scheduler is current."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace

from thc_dask import schedule
from thc_dask.grid import Extent, Vox, blocks
from thc_dask.progress import Progress, Standing, tell
from thc_dask.reader import stored_dtype
from thc_dask.store.column import Counted
from thc_dask.store.layout import Level
from thc_dask.store.shards import shard_key
from thc_dask.store.target import Receipt
from thc_dask.store.write import Wave

Tasks = Sequence[tuple[Wave, list[Extent]]]
"""Each wave with the blocks it writes."""


def unfinished(tasks: Tasks) -> list[tuple[Wave, list[Extent]]]:
    """Return the tasks without what an interrupted run has finished."""
    left = []
    for wave, boxes in tasks:
        done = wave.target.receipts(wave.levels[0].wave)
        rest = replace(wave, done=frozenset(done), kept=tuple(done.values()))
        left.append((rest, rest.missing(boxes)))
    return left


def n_vox_todo(wave: Wave, boxes: Sequence[Extent]) -> int:
    """Return the voxels of a wave that are still to be read."""
    first = wave.levels[0]
    places = (place for box in boxes for place in _places(first, box))
    return sum(_n_vox(first, place) for place in places if place not in wave.done)


def n_vox_kept(wave: Wave) -> int:
    """Return the voxels of a wave that an earlier run has read."""
    return sum(_n_vox(wave.levels[0], receipt["place"]) for receipt in wave.kept)


def n_bytes(receipts: Sequence[Receipt]) -> int:
    """Return the bytes of all shards of receipts."""
    return sum(shard["n_bytes"] for receipt in receipts for shard in receipt["shards"])


def n_shards(receipts: Sequence[Receipt]) -> int:
    """Return the shards of receipts that are stored."""
    return sum(shard["n_bytes"] > 0 for receipt in receipts for shard in receipt["shards"])


def run_waves(
    tasks: Tasks,
    progress: Progress | None = None,
    counted: Counted | None = None,
) -> list[Receipt]:
    """Write every wave, one after the other, and return all receipts.

    In threads of this process blocks share the cores and overlap; on any other scheduler each
    block is a task of its own. The shards are the same. ``progress`` hears of voxels, all waves
    together, first before anything is done; ``counted`` of the intensities of columns that are made
    in this process, while others are being made.
    """
    kept = done = sum(n_vox_kept(wave) for wave, _ in tasks)
    total = kept + sum(n_vox_todo(wave, boxes) for wave, boxes in tasks)
    read_bytes = written_bytes = 0
    tell(progress, Standing(done, total, kept, read_bytes, written_bytes))
    receipts: list[Receipt] = []
    for wave, boxes in tasks:
        # Later waves read what this run has just written.
        itemsize = stored_dtype(wave.reader).itemsize if wave.levels[0].wave == 0 else 0
        receipts += wave.kept
        # An interrupt may come outside of the generator: whoever cleans up needs its threads ended.
        with closing(_stream(wave, boxes, counted)) as found:
            for receipt in found:
                receipts.append(receipt)
                n_vox = _n_vox(wave.levels[0], receipt["place"])
                done += n_vox
                read_bytes += n_vox * itemsize
                written_bytes += n_bytes([receipt])
                tell(progress, Standing(done, total, kept, read_bytes, written_bytes))
    return receipts


def _n_vox(level: Level, place: Sequence[int] | Vox) -> int:
    """Return how many voxels a shard holds; those at the far faces are not full."""
    z, y, x = (p * s for p, s in zip(place, level.shard, strict=True))
    stop = (z + level.shard[0], y + level.shard[1], x + level.shard[2])
    return Extent((z, y, x), stop).intersect(level.grid.extent).n_vox


def _stream(
    wave: Wave, boxes: Sequence[Extent], counted: Counted | None
) -> Generator[Receipt, None, None]:
    if schedule.is_local():
        yield from wave.stream(boxes, counted)
        return
    alone = _Alone(replace(wave, threads=1, done=frozenset(), kept=()))
    first = wave.levels[0]
    items = ((box, tuple(p for p in _places(first, box) if p in wave.done)) for box in boxes)
    for receipts in schedule.run(
        alone, items, what=alone.named, memory_bytes=wave.memory_bytes, verb="write"
    ):
        yield from receipts


Item = tuple[Extent, tuple[Vox, ...]]
"""A block, and which of its columns an earlier run has finished."""


@dataclass(frozen=True)
class _Alone:
    """Writes one block after the other, wherever it runs; carries nothing of other blocks."""

    wave: Wave

    def __call__(self, item: Item) -> list[Receipt]:
        box, done = item
        return replace(self.wave, done=frozenset(done)).write([box])

    def named(self, item: Item) -> str:
        """Return the store and the shards of a block of the finest level."""
        first, target = self.wave.levels[0], self.wave.target
        places = list(_places(first, item[0]))
        ends = dict.fromkeys(shard_key(target.path(first), p) for p in (places[0], places[-1]))
        return f"{target.location.url}: {' to '.join(ends)}"


def _places(level: Level, box: Extent) -> Iterator[Vox]:
    """Yield the places of the shards of a block."""
    for part in blocks(box.shape, level.shard):
        yield level.shard_place(part.shift(box.start))
