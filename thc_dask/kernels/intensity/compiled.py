"""Counting grey levels and mapping them to 8 bit in machine code; ``thc_dask.native`` loads it."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

_U8, _U16, _U32 = (types.CPointer(t) for t in (types.uint8, types.uint16, types.uint32))
_F32, _F64 = types.CPointer(types.float32), types.CPointer(types.float64)
_I64, _INT = types.CPointer(types.int64), types.int64


@cfunc(types.void(_U32, _INT, _INT, _U32), error_model="numpy")
def count_bits(voxels: Any, n: Any, shift: Any, table: Any) -> None:  # pragma: no cover - compiled
    """Count floats by their leading bits as they stand."""
    # One table: four side by side would not stay in cache.
    whole, one, by = n // 4 * 4, np.uint32(1), np.uint32(shift)
    for i in range(0, whole, 4):
        a, b = voxels[i] >> by, voxels[i + 1] >> by
        c, d = voxels[i + 2] >> by, voxels[i + 3] >> by
        if a == b and b == c and c == d:  # as around the tissue, where counts would wait in line
            table[a] += np.uint32(4)
        else:
            table[a] += one
            table[b] += one
            table[c] += one
            table[d] += one
    for i in range(whole, n):
        table[voxels[i] >> by] += one


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _to_uint8(voxels: Any, n: Any, window: Any, out: Any, clipped: Any) -> None:
    # Without a branch, so that voxels are taken eight at a time.
    low, high = window[0], window[1]
    span = high - low
    below, above, nan, low_inf, high_inf = 0, 0, 0, 0, 0
    for i in range(n):
        v = np.float64(voxels[i])
        below += int(v < low)
        above += int(v > high)
        nan += int(not (v < low or v >= low))
        low_inf += int(v == -np.inf)
        high_inf += int(v == np.inf)
        inside = min(max(v, low), high) if v >= low else low
        out[i] = np.uint8(np.int32(np.rint(255.0 * (inside - low) / span)))
    clipped[0] += below
    clipped[1] += above
    clipped[2] += nan
    clipped[3] += low_inf
    clipped[4] += high_inf


@cfunc(types.void(_F32, _INT, _F64, _U8, _I64), error_model="numpy", forceinline=True)
def float32_to_uint8(
    voxels: Any, n: Any, window: Any, out: Any, clipped: Any
) -> None:  # pragma: no cover - compiled
    """Map floats through a window (low, high); count what is clipped."""
    _to_uint8(voxels, n, window, out, clipped)


@cfunc(types.void(_F64, _INT, _F64, _U8, _I64), error_model="numpy", forceinline=True)
def float64_to_uint8(
    voxels: Any, n: Any, window: Any, out: Any, clipped: Any
) -> None:  # pragma: no cover - compiled
    """Map floats of double precision through a window (low, high); count what is clipped."""
    _to_uint8(voxels, n, window, out, clipped)


@cfunc(types.void(_U16, _INT, _F64, _U8, _I64), error_model="numpy", forceinline=True)
def uint16_to_uint8(
    voxels: Any, n: Any, window: Any, out: Any, clipped: Any
) -> None:  # pragma: no cover - compiled
    """Map whole numbers through a window (low, high); count what is clipped."""
    _to_uint8(voxels, n, window, out, clipped)


EXPORTED = {
    "count_bits": count_bits,
    "float32_to_uint8": float32_to_uint8,
    "float64_to_uint8": float64_to_uint8,
    "uint16_to_uint8": uint16_to_uint8,
}
