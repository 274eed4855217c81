"""Deflated voxels (gzip, zlib), read from the middle.

Such a stream can only be unpacked from its beginning on. Whoever is first to get somewhere leaves
copies of the decoder behind, and later reads set out from the nearest: nothing but these is kept.
"""

from __future__ import annotations

import os
import threading
import zlib
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError
from thc_dask.files import File, Plain
from thc_dask.grid import Vox

# A mark takes some 40 kB. These bound what all of a stream take, and what is unpacked in vain.
STEP_BYTES = 8 * 2**20
MOST_MARKS = 1024
# Deflate makes at most a thousandfold of it at once.
READ_BYTES = 16 * 1024
GZIP_OR_ZLIB = zlib.MAX_WBITS + 32


class Mark(NamedTuple):
    """A place from which a stream can be unpacked."""

    position: int
    """Bytes unpacked before it."""
    place: int
    """Byte of the file that comes next."""
    decoder: Any
    """Never used itself, only copies of it."""


class Stream:
    """A deflated stream of a file and the marks along it, for all threads of a process."""

    def __init__(self, path: str, begin: int, step: int) -> None:
        self.path = path
        self.step = step
        self._marks = [Mark(0, begin, zlib.decompressobj(GZIP_OR_ZLIB))]
        # Side by side, threads would all unpack the same unknown part.
        self._exploring = threading.Lock()

    @contextmanager
    def reading(self, fd: int, position: int) -> Iterator[Cursor]:
        """Yield a cursor that can be filled from ``position`` on."""
        unknown = position >= self._marks[-1].position
        with self._exploring if unknown else nullcontext():
            found = bisect_right(self._marks, position, key=lambda mark: mark.position)
            mark = self._marks[found - 1]
            yield Cursor(self._pieces(fd, mark, unknown), mark.position, self.path)

    def _pieces(self, fd: int, mark: Mark, leave_marks: bool) -> Iterator[bytes]:
        """Yield what is unpacked, piece by piece, from a mark to the end of the stream."""
        position, place, decoder = mark.position, mark.place, mark.decoder.copy()
        while data := os.pread(fd, READ_BYTES, place):
            try:
                piece = decoder.decompress(data)
            except zlib.error as error:
                raise DataError(
                    f"{self.path} is damaged at byte {place} or before: {error}; copy it again"
                ) from error
            position, place = position + len(piece), place + len(data)
            if decoder.eof:  # other members may follow
                place -= len(decoder.unused_data)
                decoder = zlib.decompressobj(GZIP_OR_ZLIB)
            if leave_marks and position - self._marks[-1].position >= self.step:
                self._marks.append(Mark(position, place, decoder.copy()))
            yield piece


class Cursor:
    """What is being unpacked, taken in rising order."""

    def __init__(self, pieces: Iterator[bytes], position: int, path: str) -> None:
        self._pieces = pieces
        self._path = path
        self._piece = b""
        self._end = position  # of the piece, unpacked

    def fill(self, memory: memoryview, position: int) -> None:
        """Fill memory with the bytes from ``position`` on; none before it can be had again."""
        done = 0
        while done < len(memory):
            while self._end <= position + done:
                piece = next(self._pieces, None)
                if piece is None:
                    raise DataError(
                        f"{self._path} is truncated: it ends {self._end} bytes after unpacking, "
                        f"before byte {position + len(memory)}; copy it again"
                    )
                self._piece, self._end = piece, self._end + len(piece)
            first = len(self._piece) - (self._end - position - done)
            part = memoryview(self._piece)[first : first + len(memory) - done]
            memory[done : done + len(part)] = part
            done += len(part)


@lru_cache(maxsize=16)
def _stream(file: File, begin: int, step: int, process: int) -> Stream:
    """Return the one stream there; ``process`` keeps a forked child from locks of its parent."""
    return Stream(file.path, begin, step)


@dataclass(frozen=True)
class Packed:
    """Voxels that follow one another in a deflated stream."""

    file: File
    begin: int
    """Byte of the file where the stream begins."""
    plain: Plain
    """Where the voxels lie after unpacking."""

    @property
    def unit(self) -> Vox:
        """As many whole planes as lie between two marks."""
        z, y, x = self.plain.shape
        return min(z, max(1, self._step // (y * x * self.plain.stored.itemsize))), y, x

    @property
    def _step(self) -> int:
        return max(STEP_BYTES, self.plain.end // MOST_MARKS)

    def read_into(self, fd: int, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x) with the voxels from ``start`` on."""
        if not out.size:
            return
        (z0, y0, x0), (_, n_y, n_x) = start, self.plain.shape
        stored = self.plain.stored
        # Fresh memory is slow: this serves every plane of the call.
        rows = np.empty((out.shape[1], n_x), stored)
        memory = memoryview(rows.reshape(-1).view(np.uint8))  # type: ignore[arg-type]
        first = [
            self.plain.offset + ((z0 + i) * n_y + y0) * n_x * stored.itemsize
            for i in range(len(out))
        ]
        stream = _stream(self.file, self.begin, self._step, os.getpid())
        with stream.reading(fd, first[0]) as cursor:
            for plane, position in zip(out, first, strict=True):
                cursor.fill(memory, position)
                np.copyto(plane, rows[:, x0 : x0 + out.shape[2]])
