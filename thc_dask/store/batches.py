"""Several chunks of a shard read as one piece and decoded in one go.

Each call into a library lets go of the interpreter and takes it back, which several threads wait
for in turn: one call for some chunks together costs them less than one for each.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zstandard
from numpy.typing import NDArray

from thc_dask.grid import Vox
from thc_dask.store.shards import ABSENT, CRC_BYTES, OpenShard, crc_fits, scratch

CAN = "multi_decompress_to_buffer" in zstandard.backend_features


def get_all(shard: OpenShard, places: Sequence[Vox]) -> list[NDArray[Any] | None]:
    """Return whole chunks, read-only, as ``OpenShard.get`` returns each.

    Raises
    ------
    DataError
        The shard is damaged; the message names it and the chunk.
    """
    if shard.index is None:
        return [None] * len(places)
    entries = [shard.entry(place) for place in places]
    stored = [i for i, entry in enumerate(entries) if entry[0] != ABSENT]
    found: list[NDArray[Any] | None] = [None] * len(places)
    if len(stored) < 2 or not CAN:
        for i in stored:
            found[i] = shard.get(places[i])
        return found
    pieces = shard.read_all([entries[i] for i in stored])
    frames: Any = [memoryview(piece)[:-CRC_BYTES] for piece in pieces]
    decoded: Any = None
    if all(map(_is_sound, pieces, (entries[i][1] for i in stored))):
        try:
            decoded = scratch.decompressor.multi_decompress_to_buffer(frames)
        except (zstandard.ZstdError, ValueError):
            decoded = None
    for n, i in enumerate(stored):
        # One by one what is damaged is named.
        found[i] = (
            shard.decoded(places[i], pieces[n]) if decoded is None
            else shard.shaped(places[i], decoded[n])
        )  # fmt: skip
    return found


def _is_sound(piece: bytes, size: int) -> bool:
    return len(piece) == size and crc_fits(piece)
