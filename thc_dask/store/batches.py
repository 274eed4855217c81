"""Several chunks of a shard: those of few bytes at once, the others at once or later."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

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
    places: NDArray[np.int64],
    seen: dict[bytes, Chunk],
    later: Callable[[NDArray[np.int64], NDArray[np.uint64]], NDArray[Any]] | None = None,
) -> list[Chunk]:
    """Return whole chunks by their places (chunk, 3).

    ``seen`` remembers what chunks of a few bytes came to: most chunks of labels are of one value,
    and these are all alike. Where ``later`` is given the chunks of more bytes are not decoded now:
    it is asked for what will hold each, by their numbers among ``places`` and their entries.

    Raises
    ------
    DataError
        The shard is damaged; the message names it and the chunk.
    """
    found: list[Chunk] = [0] * len(places)
    entries = shard.entries(places)
    is_there = entries[:, 0] != ABSENT
    if later is not None:
        are_later = is_there & (entries[:, 1] > FEW_BYTES)
        numbers = np.flatnonzero(are_later)
        if len(numbers):
            into = later(numbers, entries[numbers])
            for i in numbers.tolist():
                found[i] = into
        is_there &= ~are_later
    now = np.flatnonzero(is_there)
    pieces = shard.read_all([(start, size) for start, size in entries[now].tolist()])
    for i, piece in zip(now.tolist(), pieces, strict=True):
        are_few = len(piece) <= FEW_BYTES
        if are_few and piece in seen:
            found[i] = seen[piece]
            continue
        z, y, x = places[i].tolist()
        found[i] = chunk = shard.decoded((z, y, x), piece)
        if are_few:
            low, high = int(chunk.min()), int(chunk.max())
            found[i] = seen[piece] = low if low == high else chunk
    return found
