"""The one reduction: how often a row (region, structure) meets a column (intensity, structure)."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.native import load

COMPILED = "thc_dask.kernels.histogram.compiled"
TALLY = (4, 256)  # of each row: four take turns
MOST = 256  # rows or columns that are counted as bytes


class _Scratch(threading.local):
    """What each thread counts in; zero between calls. It has room for whatever a byte can hold."""

    def __init__(self) -> None:
        self.tally = np.zeros((MOST, *TALLY), np.uint16)
        self.seen = np.zeros(MOST + 1, np.uint8)
        """Which rows occurred; the last says whether a column had no place."""
        self.addresses = self.tally.ctypes.data, self.seen.ctypes.data


_scratch = _Scratch()


def joint_counts(
    rows: NDArray[Any] | int,
    columns: NDArray[Any],
    table: NDArray[np.uint32],
    total: NDArray[np.uint32] | None = None,
) -> NDArray[np.int64]:
    """Add to ``table[z, row, column]`` how often each pair stands at the same voxel of plane z.

    Parameters
    ----------
    rows, columns
        (z, y, x) blocks of one shape, uint8 or uint16, each below the table's size; ``rows`` may
        be one number, that of all voxels.
    table
        (plane, row, column) uint32, one plane for each z of the blocks; added to in place.
    total
        (row, column) uint32; the same counts over all planes, added to in place.

    Returns
    -------
    numpy.ndarray
        The rows that some voxel has, rising.

    Raises
    ------
    IndexError
        A value has no place in the table.

    Examples
    --------
    >>> table = np.zeros((1, 2, 3), np.uint32)
    >>> rows, columns = np.array([[[0, 1, 1]]], np.uint8), np.array([[[2, 0, 0]]], np.uint8)
    >>> joint_counts(rows, columns, table).tolist()
    [0, 1]
    >>> table.tolist()
    [[[0, 0, 1], [2, 0, 0]]]
    """
    if total is None:
        total = np.zeros(table.shape[1:], np.uint32)
    numbers = [a for a in (rows, columns) if not isinstance(a, int)]
    if max(table.shape[1:]) <= MOST and all(a.itemsize == 1 for a in numbers):
        return _count_bytes(rows, columns, table, total)
    return _count_numbers(rows, columns, table, total)


def _count_bytes(
    rows: NDArray[Any] | int, columns: NDArray[Any], table: NDArray[np.uint32],
    total: NDArray[np.uint32],
) -> NDArray[np.int64]:  # fmt: skip
    columns, scratch = _side_by_side(columns), _scratch
    n_rows, n_columns = total.shape
    start, at, z, y = _place(columns)
    if isinstance(rows, int):
        where = (start, start, 0, 0, 0, rows)
        if not 0 <= rows < n_rows:
            raise IndexError(f"row {rows} in a table of {n_rows}")
    else:
        row_start, at_rows, rows_z, rows_y = _place(_side_by_side(rows))
        where = (row_start, row_start, at_rows, rows_z, rows_y, -1)
    load(COMPILED)["count_bytes"](
        *where, start, start, at, z, y, *columns.shape, n_rows, n_columns,
        table.ctypes.data, total.ctypes.data, *scratch.addresses,
    )  # fmt: skip
    met = np.flatnonzero(scratch.seen)
    scratch.seen[met] = 0
    if len(met) and met[-1] >= n_rows:
        _refuse(met, n_rows, n_columns)
    return met


def _refuse(met: NDArray[np.int64], n_rows: int, n_columns: int) -> None:
    """Raise IndexError for what had no place, which has been counted beside the table."""
    beside = met[(met >= n_rows) & (met < MOST)]
    _scratch.tally[beside] = 0
    if len(beside):
        raise IndexError(f"row {beside[-1]} in a table of {n_rows}")
    raise IndexError(f"a column of {n_columns} or more in a table of {n_columns}")


def _count_numbers(
    rows: NDArray[Any] | int, columns: NDArray[Any], table: NDArray[np.uint32],
    total: NDArray[np.uint32],
) -> NDArray[np.int64]:  # fmt: skip
    if isinstance(rows, int):
        rows = np.broadcast_to(np.uint16(rows), columns.shape)
    rows, columns = (_side_by_side(a.astype(np.uint16, copy=False)) for a in (rows, columns))
    # Compiled code checks no bounds.
    for values, n, what in ((rows, total.shape[0], "row"), (columns, total.shape[1], "column")):
        if values.size and int(values.max()) >= n:
            raise IndexError(f"{what} {int(values.max())} in a table of {n}")
    (rows_z, rows_y), (columns_z, columns_y) = (
        [n // 2 for n in a.strides[:2]] for a in (rows, columns)
    )
    seen = np.zeros(total.shape[0], np.uint8)
    load(COMPILED)["count_numbers"](
        rows.ctypes.data, rows_z, rows_y, columns.ctypes.data, columns_z, columns_y,
        *columns.shape, *total.shape, table.ctypes.data, total.ctypes.data, seen.ctypes.data,
    )  # fmt: skip
    return np.flatnonzero(seen)


def _side_by_side(block: NDArray[Any]) -> NDArray[Any]:
    """Return a block whose lines along x lie in one piece."""
    return block if block.strides[2] == block.itemsize else np.ascontiguousarray(block)


def _place(block: NDArray[Any]) -> tuple[int, int, int, int]:
    """Return an address that is a whole word before a block, where from there, and strides."""
    address = block.ctypes.data
    return address & ~7, address & 7, block.strides[0], block.strides[1]
