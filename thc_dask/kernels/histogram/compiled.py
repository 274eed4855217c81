"""The counting itself, in machine code; ``thc_dask.native`` loads it.

What limits it is that an increment must wait for the one before it at the same place, and
neighbours are often equal: four tallies take turns. They are of 16 bits, so that they stay in the
first cache, and are emptied into the table before they can overflow.
"""
# Memory is named by addresses. `rows`, `columns` begin at a multiple of eight bytes and are seen
# both as bytes and as words of eight; offsets and strides are in voxels.

from __future__ import annotations

from typing import Any

import numpy as np
from numba import cfunc, njit, types

from thc_dask.native.memory import bytes_at, counts_at, words_at

LANES = 4
LANE = 256  # of a tally (row, lane, column)
MOST = 65528  # voxels between two emptyings: a tally can count to 65535

_U8, _U16 = types.CPointer(types.uint8), types.CPointer(types.uint16)
_U32 = types.CPointer(types.uint32)
_I64, _INT = types.CPointer(types.int64), types.int64


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _same(words: Any, first: Any, n: Any) -> Any:
    """Whether words all hold one byte, eight times."""
    value = (words[first] & np.uint64(0xFF)) * np.uint64(0x0101010101010101)
    other = np.uint64(0)
    for w in range(first, first + n):
        other |= words[w] ^ value
    return other == 0


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _count_eight(c: Any, tally: Any, row: Any) -> None:
    """Count eight voxels of one row."""
    byte, one = np.uint64(0xFF), np.uint16(1)
    tally[row + (c & byte)] += one
    tally[row + np.uint64(256) + ((c >> np.uint64(8)) & byte)] += one
    tally[row + np.uint64(512) + ((c >> np.uint64(16)) & byte)] += one
    tally[row + np.uint64(768) + ((c >> np.uint64(24)) & byte)] += one
    tally[row + ((c >> np.uint64(32)) & byte)] += one
    tally[row + np.uint64(256) + ((c >> np.uint64(40)) & byte)] += one
    tally[row + np.uint64(512) + ((c >> np.uint64(48)) & byte)] += one
    tally[row + np.uint64(768) + (c >> np.uint64(56))] += one


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _flush(
    tally: Any, seen: Any, n_rows: Any, n_columns: Any, table: Any, plane: Any, total: Any,
    met: Any, block: Any,
) -> None:  # fmt: skip
    """Empty the tallies of the rows that were seen into a plane of the table, and the total."""
    top = plane * n_rows * n_columns
    lost = np.uint16(0)
    for r in range(n_rows):
        if seen[r]:
            seen[r], met[block + r] = np.uint8(0), np.uint8(1)
            at, into = r * 1024, r * n_columns
            for c in range(n_columns):
                n = np.uint32(tally[at + c]) + np.uint32(tally[at + 256 + c])
                n += np.uint32(tally[at + 512 + c]) + np.uint32(tally[at + 768 + c])
                table[top + into + c] += n
                total[into + c] += n
            for lane in range(at, at + 1024, 256):
                for c in range(lane + n_columns, lane + 256):
                    lost |= tally[c]
            for c in range(1024):
                tally[at + c] = np.uint16(0)
    if lost:
        met[block + 256] = np.uint8(1)


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _count_line(
    rows: Any, row_words: Any, at_row: Any, row: Any, columns: Any, column_words: Any,
    at_column: Any, n: Any, tally: Any, seen: Any,
) -> None:  # fmt: skip
    """Count ``n`` voxels that lie side by side; ``row`` is that of all of them, or -1."""
    one, held = np.uint16(1), np.uint8(1)
    head, words = n, 0
    if row >= 0 or (at_row & 7) == (at_column & 7):
        head = min(n, -at_column & 7)
        words = (n - head) >> 3
    tail = head + 8 * words
    first = (at_column + head) >> 3
    byte = np.uint64(0xFF)
    if row >= 0:
        seen[row] = held
        base = np.uint64(row) * np.uint64(1024)
        for i in range(head):
            tally[base + np.uint64(columns[at_column + i])] += one
        for w in range(first, first + words):
            _count_eight(column_words[w], tally, base)
        for i in range(tail, n):
            tally[base + np.uint64(columns[at_column + i])] += one
    else:
        shift = ((at_row + head) >> 3) - first
        for i in range(head):
            r = np.uint64(rows[at_row + i])
            seen[r] = held
            tally[r * np.uint64(1024) + np.uint64(columns[at_column + i])] += one
        same, base = np.uint64(0), np.uint64(0)
        if words > 0:
            same = ~row_words[first + shift]
        for w in range(first, first + words):
            eight, c = row_words[w + shift], column_words[w]
            if eight != same:
                r = eight & byte
                if eight != r * np.uint64(0x0101010101010101):
                    for a in range(8):
                        r = (eight >> np.uint64(8 * a)) & byte
                        seen[r] = held
                        at = r * np.uint64(1024) + np.uint64(256 * (a & 3))
                        tally[at + ((c >> np.uint64(8 * a)) & byte)] += one
                    continue
                seen[r] = held
                same, base = eight, r * np.uint64(1024)
            _count_eight(c, tally, base)
        for i in range(tail, n):
            r = np.uint64(rows[at_row + i])
            seen[r] = held
            tally[r * np.uint64(1024) + np.uint64(columns[at_column + i])] += one


@cfunc(types.void(_I64, _INT, _INT, _INT, _U16, _U8, _U8), error_model="numpy", forceinline=True)
def count_bytes(
    jobs: Any, n_jobs: Any, n_rows: Any, n_columns: Any, tally: Any, seen: Any, met: Any
) -> None:  # pragma: no cover - compiled
    """Do jobs, each a row of numbers as ``Jobs`` writes it; say in ``met`` which rows occurred."""
    for i in range(n_jobs):
        j = i * 15
        row_start, at_rows, rows_z, rows_y, row = (
            jobs[j], jobs[j + 1], jobs[j + 2], jobs[j + 3], jobs[j + 4]
        )  # fmt: skip
        start, at_columns, columns_z, columns_y = jobs[j + 5], jobs[j + 6], jobs[j + 7], jobs[j + 8]
        n_z, n_y, n_x = jobs[j + 9], jobs[j + 10], jobs[j + 11]
        table: Any = counts_at(jobs[j + 12])
        total: Any = counts_at(jobs[j + 13])
        into = jobs[j + 14] * 257
        rows, row_words = bytes_at(row_start), words_at(row_start)
        columns, column_words = bytes_at(start), words_at(start)
        for z in range(n_z):
            at_row, at_column = at_rows + z * rows_z, at_columns + z * columns_z
            n_lines, n = n_y, n_x
            if columns_y == n_x and (row >= 0 or rows_y == n_x):
                n_lines, n = 1, n_y * n_x  # lines follow on one another
            here = row
            whole = row < 0 and n_lines == 1 and n >= 8 and not ((at_row | n) & 7)
            if whole and _same(row_words, at_row >> 3, n >> 3):
                here = np.int64(rows[at_row])
            held = 0
            for y in range(n_lines):
                left, done = n, 0
                while left > 0:
                    piece = min(left, MOST)
                    if held + piece > MOST:
                        _flush(tally, seen, n_rows, n_columns, table, z, total, met, into)
                        held = 0
                    _count_line(
                        rows, row_words, at_row + y * rows_y + done, here, columns, column_words,
                        at_column + y * columns_y + done, piece, tally, seen,
                    )  # fmt: skip
                    held, left, done = held + piece, left - piece, done + piece
            _flush(tally, seen, n_rows, n_columns, table, z, total, met, into)
        for r in range(n_rows, 256):  # for these there is no place in the table
            met[into + r] |= seen[r]
            seen[r] = np.uint8(0)


@cfunc(
    types.void(
        _U16, _INT, _INT, _U16, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _U32, _U32, _U8
    ),
    error_model="numpy", forceinline=True,
)  # fmt: skip  # pragma: no cover - compiled
def count_numbers(
    rows: Any, rows_z: Any, rows_y: Any, columns: Any, columns_z: Any, columns_y: Any,
    n_z: Any, n_y: Any, n_x: Any, n_rows: Any, n_columns: Any, table: Any, total: Any, seen: Any,
) -> None:  # fmt: skip
    """Count voxels of two bytes, one by one."""
    for z in range(n_z):
        into = z * n_rows * n_columns
        for y in range(n_y):
            a, b = z * rows_z + y * rows_y, z * columns_z + y * columns_y
            for x in range(n_x):
                r = np.int64(rows[a + x])
                at = r * n_columns + np.int64(columns[b + x])
                seen[r] = np.uint8(1)
                table[into + at] += np.uint32(1)
                total[at] += np.uint32(1)


EXPORTED = {"count_bytes": count_bytes, "count_numbers": count_numbers}
