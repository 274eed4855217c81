"""The mean in machine code; ``thc_dask.native`` loads it.

Eight bytes are taken as a word and stay in it: its even voxels and its odd ones are added as lanes
twice as wide, so four lines of eight voxels come to four sums of eight.
"""
# Memory is named by addresses of words; strides and widths are in words of eight bytes.

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, types

_U64, _U32 = types.CPointer(types.uint64), types.CPointer(types.uint32)
_INT = types.int64
_SIGNATURE = types.void(_U64, _INT, _INT, _INT, _INT, _U32, _INT, _INT, _INT)


@cfunc(_SIGNATURE, error_model="numpy")
def mean_uint8(
    src: Any, n: Any, n_z: Any, n_y: Any, width: Any, dst: Any, dst_block: Any, dst_z: Any,
    dst_y: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    """Halve ``n`` blocks that follow on one another; steps of ``dst`` are in half words."""
    lanes, ones, threes = (
        np.uint64(0x00FF00FF00FF00FF), np.uint64(0x0001000100010001), np.uint64(0x0003000300030003)
    )  # fmt: skip
    three, eight, sixteen = np.uint64(3), np.uint64(8), np.uint64(16)
    pairs = np.uint64(0x0000FFFF0000FFFF)
    for block in range(n):
        for z in range(n_z // 2):
            for y in range(n_y // 2):
                first = ((block * n_z + 2 * z) * n_y + 2 * y) * width
                second = first + n_y * width
                to = block * dst_block + z * dst_z + y * dst_y
                for i in range(width):
                    a, b = src[first + i], src[first + width + i]
                    c, d = src[second + i], src[second + width + i]
                    t = (a & lanes) + (b & lanes) + (c & lanes) + (d & lanes)
                    t += (a >> eight) & lanes
                    t += (b >> eight) & lanes
                    t += (c >> eight) & lanes
                    t += (d >> eight) & lanes
                    # Adding 3 and the lowest bit that stays rounds halves to even.
                    t += threes + ((t >> three) & ones)
                    t = (t >> three) & lanes
                    t = (t | (t >> eight)) & pairs
                    dst[to + i] = np.uint32(t | (t >> sixteen))


@cfunc(_SIGNATURE, error_model="numpy")
def mean_uint16(
    src: Any, n: Any, n_z: Any, n_y: Any, width: Any, dst: Any, dst_block: Any, dst_z: Any,
    dst_y: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    """Halve ``n`` blocks that follow on one another; steps of ``dst`` are in half words."""
    lanes, ones, threes = (
        np.uint64(0x0000FFFF0000FFFF), np.uint64(0x0000000100000001), np.uint64(0x0000000300000003)
    )  # fmt: skip
    three, sixteen = np.uint64(3), np.uint64(16)
    for block in range(n):
        for z in range(n_z // 2):
            for y in range(n_y // 2):
                first = ((block * n_z + 2 * z) * n_y + 2 * y) * width
                second = first + n_y * width
                to = block * dst_block + z * dst_z + y * dst_y
                for i in range(width):
                    a, b = src[first + i], src[first + width + i]
                    c, d = src[second + i], src[second + width + i]
                    t = (a & lanes) + (b & lanes) + (c & lanes) + (d & lanes)
                    t += (a >> sixteen) & lanes
                    t += (b >> sixteen) & lanes
                    t += (c >> sixteen) & lanes
                    t += (d >> sixteen) & lanes
                    t += threes + ((t >> three) & ones)
                    t = (t >> three) & lanes
                    dst[to + i] = np.uint32(t | (t >> sixteen))


EXPORTED = {"uint8": mean_uint8, "uint16": mean_uint16}
