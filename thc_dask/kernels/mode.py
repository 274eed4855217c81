"""Halve a block of labels: the mode of the known voxels.

A block starts on an even voxel and may end on an odd one, at the far faces of the volume:
there fewer than eight voxels exist, and only those vote.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

# Blocks come read-only from a decoder as often as writable from a buffer; numba takes both as
# the former.
_IN8, _IN16 = (types.Array(t, 3, "A", readonly=True) for t in (types.uint8, types.uint16))
_OUT8, _OUT16 = (types.Array(t, 3, "A") for t in (types.uint8, types.uint16))
_I8 = types.int64
_HALVE = [types.void(_IN8, _OUT8), types.void(_IN16, _OUT16)]
_KNOWN_FROM = [
    types.void(i, _IN8, types.boolean, o, _I8, _I8, _I8)
    for i, o in ((_IN8, _OUT8), (_IN16, _OUT16))
]


def _far_faces(shape: Sequence[int], half: Sequence[int]) -> Iterator[list[int]]:
    """Yield where the face of ``half`` starts on each axis along which ``shape`` is odd."""
    for axis in range(3):
        if shape[axis] % 2:
            yield [half[axis] - 1 if i == axis else 0 for i in range(3)]


@njit(["u1(u1[:], i8)", "u2(u2[:], i8)"], nogil=True, cache=True)  # pragma: no cover - compiled
def _vote(values: Any, count: int) -> Any:
    best, most = values[0], 0
    for a in range(count):
        votes = 0
        for b in range(count):
            votes += values[b] == values[a]
        if votes > most or (votes == most and values[a] < best):
            most = votes
            best = values[a]
    return best


@njit(_HALVE, nogil=True, cache=True)  # pragma: no cover - compiled
def _mode_inner(src: Any, dst: Any) -> None:
    values = np.empty(8, src.dtype)
    for k in range(src.shape[0] // 2):
        for j in range(src.shape[1] // 2):
            for i in range(src.shape[2] // 2):
                v = src[2 * k, 2 * j, 2 * i]
                # Most cells are of one label: bitwise tests keep the branch single.
                differ = (
                    (src[2 * k, 2 * j, 2 * i + 1] ^ v)
                    | (src[2 * k, 2 * j + 1, 2 * i] ^ v)
                    | (src[2 * k, 2 * j + 1, 2 * i + 1] ^ v)
                    | (src[2 * k + 1, 2 * j, 2 * i] ^ v)
                    | (src[2 * k + 1, 2 * j, 2 * i + 1] ^ v)
                    | (src[2 * k + 1, 2 * j + 1, 2 * i] ^ v)
                    | (src[2 * k + 1, 2 * j + 1, 2 * i + 1] ^ v)
                )
                if differ:
                    for c in range(8):
                        values[c] = src[2 * k + (c >> 2), 2 * j + ((c >> 1) & 1), 2 * i + (c & 1)]
                    v = _vote(values, 8)
                dst[k, j, i] = v


@njit(_KNOWN_FROM, nogil=True, cache=True)  # pragma: no cover - compiled
def _mode_from(src: Any, known: Any, all_known: bool, dst: Any, k0: int, j0: int, i0: int) -> None:
    n, m, l = src.shape  # noqa: E741
    values = np.empty(8, src.dtype)
    for k in range(k0, dst.shape[0]):
        for j in range(j0, dst.shape[1]):
            for i in range(i0, dst.shape[2]):
                count = 0
                for c in range(2 * k, min(2 * k + 2, n)):
                    for b in range(2 * j, min(2 * j + 2, m)):
                        for a in range(2 * i, min(2 * i + 2, l)):
                            if all_known or known[c, b, a]:
                                values[count] = src[c, b, a]
                                count += 1
                dst[k, j, i] = _vote(values, count) if count else 0


_NO_MASK = np.empty((0, 0, 0), np.uint8)


def mode(src: NDArray[Any], dst: NDArray[Any], known: NDArray[np.uint8] | None = None) -> None:
    """Write the most frequent known label of every 2 x 2 x 2 voxels, ties to the smallest code.

    Parameters
    ----------
    src
        (z, y, x) labels, uint8 or uint16.
    dst
        (z, y, x) of the same type, shape ``ceil(n / 2)``; 0 where nothing is known.
    known
        (z, y, x) uint8, 1 where the label is known; None where all of it is.

    Examples
    --------
    >>> block = np.array([[[0, 5], [5, 3]]], np.uint8)
    >>> half = np.empty((1, 1, 1), np.uint8)
    >>> mode(block, half)
    >>> int(half[0, 0, 0])
    5
    """
    if known is not None:
        _mode_from(src, known, False, dst, 0, 0, 0)
        return
    _mode_inner(src, dst)
    for start in _far_faces(src.shape, dst.shape):
        _mode_from(src, _NO_MASK, True, dst, *start)
