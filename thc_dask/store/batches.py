"""Several chunks of a shard: those of few bytes at once, the others at once or later."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Vox
from thc_dask.store.shards import ABSENT, OpenShard

FEW_BYTES = 64  # a chunk of one value takes some twenty, whatever its size
KEPT_BYTES = 31 * 2**20

Chunk = NDArray[Any] | int
"""A whole chunk, read-only; the value of all its voxels where there is but one."""


def keep_memory() -> None:
    """Have the allocator keep memory that is given back for what is decoded next.

    glibc hands back to the system what exceeds twice the largest block that it has seen freed,
    and memory that the system has to find again is five times slower. No page of this one is used.
    """
    del [np.empty(KEPT_BYTES, np.uint8)][0]


def get_all(
    shard: OpenShard,
    places: Sequence[Vox],
    seen: dict[bytes, Chunk],
    later: Callable[[int], NDArray[Any]] | None = None,
) -> list[Chunk]:
    """Return whole chunks.

    ``seen`` remembers what chunks of a few bytes came to: most chunks of labels are of one value,
    and these are all alike. Where ``later`` is given the chunks of more bytes are not decoded now:
    it is asked for each, by its number among ``places``.

    Raises
    ------
    DataError
        The shard is damaged; the message names it and the chunk.
    """
    found: list[Chunk] = [0] * len(places)
    if shard.index is None:
        return found
    entries = [shard.entry(place) for place in places]
    now = []
    for i, (offset, size) in enumerate(entries):
        if offset != ABSENT:
            if later is not None and size > FEW_BYTES:
                found[i] = later(i)
            else:
                now.append(i)
    for i, piece in zip(now, shard.read_all([entries[i] for i in now]), strict=True):
        if len(piece) > FEW_BYTES:
            found[i] = shard.decoded(places[i], piece)
        elif piece in seen:
            found[i] = seen[piece]
        else:
            chunk = shard.decoded(places[i], piece)
            low, high = int(chunk.min()), int(chunk.max())
            found[i] = seen[piece] = low if low == high else chunk
    return found
