"""The one reduction: how often a row (region, structure) meets a column (intensity, structure)."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numpy.typing import NDArray

_INPUTS = [types.Array(t, 3, "A", readonly=True) for t in (types.uint8, types.uint16)]
_SIGNATURES = [
    types.void(r, c, types.int64[:, :, ::1], types.uint32[:, ::1]) for r in _INPUTS for c in _INPUTS
]


@njit(_SIGNATURES, nogil=True, cache=True)  # pragma: no cover - compiled
def _joint_counts(rows: Any, columns: Any, table: Any, total: Any) -> None:
    n, m, l = rows.shape  # noqa: E741
    # Two small tables in turn: equal neighbours would wait for each other's increment.
    even = np.zeros((table.shape[1], table.shape[2]), np.uint32)
    odd = np.zeros((table.shape[1], table.shape[2]), np.uint32)
    seen = np.zeros(table.shape[1], np.uint8)  # a plane of a chunk meets few of the rows
    for k in range(n):
        for j in range(m):
            i = 0
            while i + 8 <= l:
                r = rows[k, j, i]
                same = True
                for a in range(1, 8):
                    same &= rows[k, j, i + a] == r
                if same:
                    seen[r] = 1
                    for a in range(0, 8, 2):
                        even[r, columns[k, j, i + a]] += np.uint32(1)
                        odd[r, columns[k, j, i + a + 1]] += np.uint32(1)
                else:
                    for a in range(0, 8, 2):
                        seen[rows[k, j, i + a]] = 1
                        seen[rows[k, j, i + a + 1]] = 1
                        even[rows[k, j, i + a], columns[k, j, i + a]] += np.uint32(1)
                        odd[rows[k, j, i + a + 1], columns[k, j, i + a + 1]] += np.uint32(1)
                i += 8
            while i < l:
                seen[rows[k, j, i]] = 1
                even[rows[k, j, i], columns[k, j, i]] += np.uint32(1)
                i += 1
        for r in range(table.shape[1]):
            if not seen[r]:
                continue
            seen[r] = 0
            for c in range(table.shape[2]):
                both = even[r, c] + odd[r, c]
                table[k, r, c] += np.int64(both)
                total[r, c] += both
                even[r, c] = 0
                odd[r, c] = 0


def joint_counts(
    rows: NDArray[Any],
    columns: NDArray[Any],
    table: NDArray[np.int64],
    total: NDArray[np.uint32] | None = None,
) -> None:
    """Add to ``table[z, row, column]`` how often each pair stands at the same voxel of plane z.

    Parameters
    ----------
    rows, columns
        (z, y, x) blocks of one shape, uint8 or uint16, each below the table's size.
    table
        (plane, row, column) int64, one plane for each z of the blocks; added to in place.
    total
        (row, column) uint32; the same counts over all planes, added to in place.

    Raises
    ------
    IndexError
        A value has no place in the table.

    Examples
    --------
    >>> table = np.zeros((1, 2, 3), np.int64)
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
    _joint_counts(rows, columns, table, total)
