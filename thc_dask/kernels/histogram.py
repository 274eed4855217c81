"""The one reduction: how often a row (region, structure) meets a column (intensity, structure)."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_U32, _U64 = types.uint32, types.uint64
_TABLE, _TOTAL, _TALLY = _U32[:, :, ::1], _U32[:, ::1], _U32[:, ::1]
_SEEN = types.uint8[::1]
_WORDS = types.Array(_U64, 2, "C", readonly=True)
_BLOCKS = [types.Array(t, 3, "A", readonly=True) for t in (types.uint8, types.uint16)]

# Neighbours are often equal, and would wait for each other's increment: they take turns.
N_TALLIES = 4


@njit(types.void(_TALLY, _SEEN, _U32[:, ::1], _TOTAL), nogil=True, cache=True)  # pragma: no cover
def _flush(tally: Any, seen: Any, table: Any, total: Any) -> None:
    n_columns = table.shape[1]
    for r in range(table.shape[0]):  # a plane of a chunk meets few of the rows
        if not seen[r]:
            continue
        seen[r] = 0
        for c in range(n_columns):
            i = r * n_columns + c
            n = tally[0, i] + tally[1, i] + tally[2, i] + tally[3, i]
            table[r, c] += n
            total[r, c] += n
            for t in range(N_TALLIES):
                tally[t, i] = 0


@njit(
    types.void(_WORDS, _WORDS, _TABLE, _TOTAL, _TALLY, _SEEN), nogil=True, cache=True
)  # pragma: no cover - compiled
def _count_words(rows: Any, columns: Any, table: Any, total: Any, tally: Any, seen: Any) -> None:
    byte, n_columns, one = np.uint64(0xFF), np.uint64(table.shape[2]), np.uint32(1)
    for k in range(rows.shape[0]):
        for w in range(rows.shape[1]):
            eight, c = rows[k, w], columns[k, w]
            r = eight & byte
            if eight == r * np.uint64(0x0101010101010101):
                seen[r] = 1
                i = r * n_columns
                tally[0, i + (c & byte)] += one
                tally[1, i + ((c >> np.uint64(8)) & byte)] += one
                tally[2, i + ((c >> np.uint64(16)) & byte)] += one
                tally[3, i + ((c >> np.uint64(24)) & byte)] += one
                tally[0, i + ((c >> np.uint64(32)) & byte)] += one
                tally[1, i + ((c >> np.uint64(40)) & byte)] += one
                tally[2, i + ((c >> np.uint64(48)) & byte)] += one
                tally[3, i + (c >> np.uint64(56))] += one
            else:
                for a in range(8):
                    r = (eight >> np.uint64(8 * a)) & byte
                    seen[r] = 1
                    tally[0, r * n_columns + ((c >> np.uint64(8 * a)) & byte)] += one
        _flush(tally, seen, table[k], total)


@njit(
    [types.void(r, c, _TABLE, _TOTAL, _TALLY, _SEEN) for r in _BLOCKS for c in _BLOCKS],
    nogil=True,
    cache=True,
)  # pragma: no cover - compiled
def _count_voxels(rows: Any, columns: Any, table: Any, total: Any, tally: Any, seen: Any) -> None:
    n_columns = table.shape[2]
    for k in range(rows.shape[0]):
        for j in range(rows.shape[1]):
            for i in range(rows.shape[2]):
                r = rows[k, j, i]
                seen[r] = 1
                tally[i & 3, r * n_columns + columns[k, j, i]] += np.uint32(1)
        _flush(tally, seen, table[k], total)


class _Scratch(threading.local):
    """What each thread counts in; zero between calls."""

    def __init__(self) -> None:
        self._tallies: dict[int, NDArray[np.uint32]] = {}
        self._seen = np.zeros(0, np.uint8)

    def get(self, n_rows: int, n_columns: int) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
        n = n_rows * n_columns
        if n not in self._tallies:
            self._tallies[n] = np.zeros((N_TALLIES, n), np.uint32)
        if len(self._seen) < n_rows:
            self._seen = np.zeros(n_rows, np.uint8)
        return self._tallies[n], self._seen


_scratch = _Scratch()


def joint_counts(
    rows: NDArray[Any],
    columns: NDArray[Any],
    table: NDArray[np.uint32],
    total: NDArray[np.uint32] | None = None,
) -> None:
    """Add to ``table[z, row, column]`` how often each pair stands at the same voxel of plane z.

    Parameters
    ----------
    rows, columns
        (z, y, x) blocks of one shape, uint8 or uint16, each below the table's size.
    table
        (plane, row, column) uint32, one plane for each z of the blocks; added to in place.
    total
        (row, column) uint32; the same counts over all planes, added to in place.

    Raises
    ------
    IndexError
        A value has no place in the table.

    Examples
    --------
    >>> table = np.zeros((1, 2, 3), np.uint32)
    >>> joint_counts(np.array([[[0, 1, 1]]], np.uint8), np.array([[[2, 0, 0]]], np.uint8), table)
    >>> table.tolist()
    [[[0, 0, 1], [2, 0, 0]]]
    """
    # Compiled code checks no bounds; where the type itself cannot keep them, look first.
    for values, n, what in ((rows, table.shape[1], "row"), (columns, table.shape[2], "column")):
        if n <= np.iinfo(values.dtype).max and values.size and int(values.max()) >= n:
            raise IndexError(f"{what} {int(values.max())} in a table of {n}")
    if total is None:
        total = np.zeros(table.shape[1:], np.uint32)
    tally, seen = _scratch.get(*total.shape)
    if _in_words(rows) and _in_words(columns):
        row_words, column_words = (a.reshape(len(a), -1).view(np.uint64) for a in (rows, columns))
        _count_words(row_words, column_words, table, total, tally, seen)
    else:
        _count_voxels(rows, columns, table, total, tally, seen)


def _in_words(block: NDArray[Any]) -> bool:
    """Whether the planes of a block are whole words of eight voxels, one after the other."""
    whole = block.size > 0 and block.shape[1] * block.shape[2] % 8 == 0
    return (
        whole
        and block.dtype == np.uint8
        and block.flags.c_contiguous
        and block.ctypes.data % 8 == 0
    )
