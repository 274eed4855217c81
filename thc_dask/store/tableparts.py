"""Arrays of count tables, cut along their first axis into parts that are made one at a time.

A table of chunks is mostly zeros: it is held without them, and no part is larger than a few
megabytes while it is compressed.
"""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from thc_dask.store import metadata


class _Blank(threading.local):
    """Zeros that each thread fills and clears again: fresh memory costs more than the counts."""

    def __init__(self) -> None:
        self._memory = np.zeros(0, np.uint32)
        self._filled = self._memory.reshape(0, 0), np.zeros(0, np.int64)

    def lines(self, n: int, width: int) -> NDArray[np.uint32]:
        """Return ``n`` lines of zeros; those that are given next may be the same memory."""
        lines, where = self._filled
        lines[where] = 0
        if len(self._memory) < n * width:
            self._memory = np.zeros(n * width, np.uint32)
        return self._memory[: n * width].reshape(n, width)

    def filled(self, lines: NDArray[np.uint32], where: NDArray[np.int64]) -> None:
        """Say which lines are not zero any more."""
        self._filled = lines, where


_blank = _Blank()


@dataclass(frozen=True)
class Sparse:
    """A table (chunk, row, column) without the rows that a chunk has not."""

    chunk: NDArray[np.int64]
    """Which chunk, of each row that is held; rising."""
    row: NDArray[np.int64]
    """Which row; rising within a chunk."""
    counts: NDArray[np.uint32]
    """(held, column)."""


@dataclass(frozen=True)
class Joined:
    """Sparse tables of different chunks as one; the counts stay where they are."""

    chunk: NDArray[np.int64]
    """Which chunk, of each row that is held; rising."""
    row: NDArray[np.int64]
    """Which row; rising within a chunk."""
    table: NDArray[np.int64]
    """Which table has the counts."""
    held: NDArray[np.int64]
    """Where in that table."""
    counts: tuple[NDArray[np.uint32], ...]
    """Of each table (held, column)."""
    n_columns: int

    def dense(self, start: int, stop: int, n_rows: int) -> NDArray[np.uint32]:
        """Return some chunks with all their rows, (chunk, row, column).

        The array is this thread's, until it asks for the next.
        """
        a, b = np.searchsorted(self.chunk, (start, stop))
        lines = _blank.lines((stop - start) * n_rows, self.n_columns)
        where = (self.chunk[a:b] - start) * n_rows + self.row[a:b]
        _blank.filled(lines, where)
        order = np.argsort(self.table[a:b], kind="stable")
        table, held, where = self.table[a:b][order], self.held[a:b][order], where[order]
        ends = [0, *(np.flatnonzero(np.diff(table)) + 1).tolist(), len(table)]
        for i, j in itertools.pairwise(ends):
            if i < j:
                lines[where[i:j]] = self.counts[table[i]][held[i:j]]
        return lines.reshape(stop - start, n_rows, self.n_columns)


def joined(
    parts: Sequence[tuple[NDArray[np.int64], Sparse]], n_columns: int
) -> tuple[NDArray[np.int64], Joined]:
    """Return tables of different chunks as one, ordered by place.

    Each part is the places (chunk, 3) of its chunks and what they hold.
    """
    places = np.concatenate([np.zeros((0, 3), np.int64), *(p for p, _ in parts)])
    order = np.lexsort(places.T[::-1])
    number = np.empty(len(places), np.int64)
    number[order] = np.arange(len(places))
    firsts = np.cumsum([0, *(len(p) for p, _ in parts)])
    none = np.zeros(0, np.int64)
    chunk = np.concatenate([none, *(s.chunk + n for n, (_, s) in zip(firsts, parts, strict=False))])
    row = np.concatenate([none, *(s.row for _, s in parts)])
    sizes = [len(s.row) for _, s in parts]
    table = np.repeat(np.arange(len(parts)), sizes)
    held = np.concatenate([none, *(np.arange(n) for n in sizes)])
    chunk = number[chunk]
    sort = np.lexsort((row, chunk))
    counts = tuple(s.counts for _, s in parts)
    return places[order], Joined(chunk[sort], row[sort], table[sort], held[sort], counts, n_columns)


@dataclass(frozen=True)
class Parts:
    """One array of a table."""

    path: str
    """In the store."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    size: int
    """Of a part, along the first axis."""
    names: tuple[str, ...]
    """Of its dimensions."""
    attributes: metadata.Node
    part: Callable[[int, int], NDArray[Any]]
    """Values from one number along the first axis up to another."""

    def node(self) -> metadata.Node:
        """Return its metadata."""
        sizes = (max(1, self.size), *(max(1, n) for n in self.shape[1:]))
        return metadata.table_node(self.shape, self.dtype, sizes, self.names, self.attributes)

    def starts(self) -> range:
        """Return where parts begin."""
        return range(0, self.shape[0], max(1, self.size))

    def key(self, start: int) -> str:
        """Return the key of a part."""
        return f"{self.path}/c/{start // self.size}{'/0' * (len(self.shape) - 1)}"

    def encoded(self, start: int) -> bytes | None:
        """Return a part, compressed; None where it is all zero, and so not stored."""
        stop = min(start + self.size, self.shape[0])
        values = self.part(start, stop)
        if not values.any():
            return None
        little = self.dtype.newbyteorder("<")
        if stop - start == self.size:
            whole = np.ascontiguousarray(values, little)
        else:
            whole = np.zeros((self.size, *self.shape[1:]), little)
            whole[: stop - start] = values
        compressor = zstandard.ZstdCompressor(level=metadata.TABLE_LEVEL, write_content_size=True)
        return compressor.compress(whole.data.cast("B"))


def whole(path: str, name: str, dim: str, values: NDArray[Any], attributes: metadata.Node) -> Parts:
    """Return an array of one dimension, in one part."""
    return Parts(
        f"{path}/{name}", values.shape, values.dtype, len(values), (dim,), attributes,
        lambda start, stop: values[start:stop],
    )  # fmt: skip
