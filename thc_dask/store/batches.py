"""Several chunks of a shard read as one piece and decoded in one go.

Each call into a library lets go of the interpreter and takes it back, which several threads wait
for in turn: one call for some chunks together costs them less than one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from thc_dask.grid import Vox
from thc_dask.store.shards import ABSENT, CRC_BYTES, OpenShard, crc_fits, scratch

CAN = "multi_decompress_to_buffer" in zstandard.backend_features
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


def get_all(shard: OpenShard, places: Sequence[Vox], seen: dict[bytes, Chunk]) -> list[Chunk]:
    """Return whole chunks.

    ``seen`` remembers what chunks of a few bytes came to: most chunks of labels are of one value,
    and these are all alike.

    Raises
    ------
    DataError
        The shard is damaged; the message names it and the chunk.
    """
    found: list[Chunk] = [0] * len(places)
    if shard.index is None:
        return found
    entries = [shard.entry(place) for place in places]
    stored = [i for i, entry in enumerate(entries) if entry[0] != ABSENT]
    pieces = dict(zip(stored, shard.read_all([entries[i] for i in stored]), strict=True))
    rest = []
    for i, piece in pieces.items():
        if len(piece) <= FEW_BYTES:
            found[i] = seen[piece] if piece in seen else _first(shard, places[i], piece, seen)
        else:
            rest.append(i)
    decoded = _together([pieces[i] for i in rest], [entries[i][1] for i in rest])
    for n, i in enumerate(rest):
        # One by one what is damaged is named.
        found[i] = (
            shard.decoded(places[i], pieces[i]) if decoded is None
            else shard.shaped(places[i], decoded[n])
        )  # fmt: skip
    return found


def _first(shard: OpenShard, place: Vox, piece: bytes, seen: dict[bytes, Chunk]) -> Chunk:
    """Return a chunk whose bytes were not seen before, and remember it."""
    chunk = shard.decoded(place, piece)
    low, high = int(chunk.min()), int(chunk.max())
    seen[piece] = low if low == high else chunk
    return seen[piece]


def _together(pieces: Sequence[bytes], sizes: Sequence[int]) -> Any | None:
    """Return what sound pieces hold, None where one of them is not sound."""
    if (
        not CAN
        or not pieces
        or not all(
            len(piece) == size and crc_fits(piece)
            for piece, size in zip(pieces, sizes, strict=True)
        )
    ):
        return None
    frames: Any = [memoryview(piece)[:-CRC_BYTES] for piece in pieces]
    try:
        return scratch.decompressor.multi_decompress_to_buffer(frames)
    except (zstandard.ZstdError, ValueError):
        return None
