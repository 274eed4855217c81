"""The one reduction: how often a row (region, structure) meets a column (intensity, structure)."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.native import address, load, start_of

COMPILED = "thc_dask.kernels.histogram.compiled"
TALLY = (4, 256)  # of each row: four take turns
ROOM_BYTES = 17920  # beside them, for the bits of voxels
LINE_BYTES = 64
JOB_WIDTH = 15  # numbers that say what is counted in a block
MOST = 256  # rows or columns that are counted as bytes


class _Scratch(threading.local):
    """What each thread counts in; zero between calls. It has room for whatever a byte can hold."""

    def __init__(self) -> None:
        n_bytes = 2 * MOST * math.prod(TALLY)
        memory = np.zeros(LINE_BYTES + n_bytes + ROOM_BYTES, np.uint8)
        first = -memory.ctypes.data % LINE_BYTES
        self.tally = memory[first : first + n_bytes].view(np.uint16).reshape(MOST, *TALLY)
        self._seen = np.zeros(MOST + 1, np.uint8)
        self.addresses = self.tally.ctypes.data, self._seen.ctypes.data


_scratch = _Scratch()


class Jobs:
    """Blocks of bytes that are counted in one go: other threads run meanwhile.

    Parameters
    ----------
    table
        (plane, row, column) uint32, C order, at most 256 rows and columns; added to in place.
    total
        (block, row, column) uint32, C order; the counts of each block over all its planes, added
        to in place.
    """

    def __init__(self, table: NDArray[np.uint32], total: NDArray[np.uint32]) -> None:
        self._table, self._total = table.ctypes.data, total.ctypes.data
        self._n_blocks, self._n_rows, self._n_columns = total.shape
        self._size = 4 * self._n_rows * self._n_columns
        self._jobs: list[tuple[int, ...]] = []
        self._parts: list[NDArray[np.int64]] = []
        self._blocks: list[NDArray[Any]] = []
        self._met = np.zeros((self._n_blocks, MOST + 1), np.uint8)

    def __len__(self) -> int:
        return len(self._jobs) + sum(map(len, self._parts))

    def add(
        self, rows: NDArray[np.uint8] | int, columns: NDArray[np.uint8], plane: int, block: int
    ) -> None:
        """Ask for a (z, y, x) block, whose first plane is ``plane`` of the table.

        ``rows`` may be one number, that of all voxels.
        """
        columns = _side_by_side(columns)
        self._blocks.append(columns)
        place = _place(columns)
        if isinstance(rows, int):
            self._check(rows, rows)
            where = (place[0], 0, 0, 0, rows)
        else:
            rows = _side_by_side(rows)
            self._blocks.append(rows)
            where = (*_place(rows), -1)
        table, total = self._table + plane * self._size, self._total + block * self._size
        self._jobs.append((*where, *place, *columns.shape, table, total, block))

    def add_parts(
        self,
        rows: Sequence[NDArray[np.uint8] | int],
        columns: Sequence[NDArray[np.uint8]],
        inside: NDArray[np.int64],
        shape: NDArray[np.int64],
        plane: NDArray[np.int64],
        block: NDArray[np.int64],
    ) -> None:
        """Ask for parts of blocks that are of one shape, each in C order and in one piece.

        ``inside`` (part, 3) is where each part begins in its block, ``shape`` (part, 3) its voxels;
        the others, one of each part, are what ``add`` takes.
        """
        if not len(rows):
            return
        _, n_y, n_x = columns[0].shape
        at = (inside * (n_y * n_x, n_x, 1)).sum(axis=1)
        row, row_at = self._values(rows)
        if (row >= 0).any():
            self._check(int(row[row >= 0].min()), int(row.max()))
        _, column_at = self._values(columns)
        row_at, column_at = np.where(row < 0, row_at + at, 0), column_at + at
        jobs = np.empty((len(rows), JOB_WIDTH), np.int64)
        jobs[:, 0], jobs[:, 1], jobs[:, 4] = row_at & ~7, row_at & 7, row
        jobs[:, 5], jobs[:, 6] = column_at & ~7, column_at & 7
        jobs[:, 2] = jobs[:, 7] = n_y * n_x
        jobs[:, 3] = jobs[:, 8] = n_x
        jobs[:, 9:12] = shape
        jobs[:, 12] = self._table + plane * self._size
        jobs[:, 13] = self._total + block * self._size
        jobs[:, 14] = block
        self._parts.append(jobs)

    def _values(
        self, blocks: Sequence[NDArray[np.uint8] | int]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return what all voxels of each block are, -1 where they differ, and where it lies."""
        found: dict[int, tuple[int, int]] = {}  # most blocks are one and the same memory
        for block in blocks:
            if id(block) not in found:
                if isinstance(block, int):
                    found[id(block)] = block, 0
                else:
                    self._blocks.append(block)
                    found[id(block)] = -1, start_of(block)
        values, addresses = np.array([found[id(b)] for b in blocks], np.int64).T
        return values, addresses

    def _check(self, low: int, high: int) -> None:
        if low < 0 or high >= self._n_rows:
            row = high if low >= 0 else low
            raise IndexError(f"row {row} in a table of {self._n_rows}")

    @cached_property
    def _all(self) -> NDArray[np.int64]:
        jobs = np.array(self._jobs, np.int64).reshape(-1, JOB_WIDTH)
        return np.concatenate([jobs, *self._parts]) if self._parts else jobs

    def run(self) -> NDArray[np.uint8]:
        """Count what was asked for; return (block, row): not 0 where a row occurs in a block.

        Raises
        ------
        IndexError
            A value has no place in the table.
        """
        load(COMPILED)["count_bytes"](
            self._all.ctypes.data, len(self._all), self._n_rows, self._n_columns,
            *_scratch.addresses, self._met.ctypes.data,
        )  # fmt: skip
        return self.met()

    def calls(self) -> NDArray[np.int64]:
        """Return what has each block that was asked for counted elsewhere: (block, 6).

        Its number, then the first four arguments of ``count_bytes`` and its last; ``counter`` has
        the rest. The jobs of a block must have been added one after the other. They lie in this
        object.
        """
        numbers = self._all[:, -1]
        is_first = np.ones(len(numbers) + 1, bool)
        is_first[1:-1] = numbers[1:] != numbers[:-1]
        ends = np.flatnonzero(is_first)
        firsts = ends[:-1]
        found = np.empty((len(firsts), 6), np.int64)
        found[:, 0] = numbers[firsts]
        found[:, 1] = start_of(self._all) + firsts * self._all.strides[0]
        found[:, 2] = ends[1:] - firsts
        found[:, 3:] = self._n_rows, self._n_columns, self._met.ctypes.data
        return found

    def met(self) -> NDArray[np.uint8]:
        """Return what ``run`` does, once all is counted."""
        self._blocks = []
        if self._met[:, self._n_rows :].any():
            self._refuse(self._met.max(axis=0))
        return self._met[:, : self._n_rows]

    def _refuse(self, met: NDArray[np.uint8]) -> None:
        """Raise IndexError for what had no place, which has been counted beside the table."""
        beside = np.flatnonzero(met[:MOST])
        beside = beside[beside >= self._n_rows]
        _scratch.tally[beside] = 0
        if len(beside):
            raise IndexError(f"row {beside[-1]} in a table of {self._n_rows}")
        raise IndexError(f"a column of {self._n_columns} or more in a table of {self._n_columns}")


def counter() -> tuple[int, int, int]:
    """Return the address of ``count_bytes``, and of what it counts in for this thread."""
    return address(COMPILED, "count_bytes"), *_scratch.addresses


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
    if not are_bytes(rows, columns, table.shape):
        return _count_numbers(rows, columns, table, total)
    jobs = Jobs(table, total[None])
    jobs.add(rows, columns, 0, 0)
    return np.flatnonzero(jobs.run()[0])


def are_bytes(rows: NDArray[Any] | int, columns: NDArray[Any], shape: tuple[int, ...]) -> bool:
    """Whether blocks can be counted as bytes into a table of that shape."""
    sizes = [a.itemsize for a in (rows, columns) if not isinstance(a, int)]
    return max(shape[1:]) <= MOST and set(sizes) == {1}


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
    start = start_of(block)
    return start & ~7, start & 7, block.strides[0], block.strides[1]
