"""Files that voxels come from: still the same as at opening, and read in place.

Files are never mapped into memory: one that shrinks or vanishes would kill the process.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.grid import Vox
from thc_dask.retry import persist

# Rows that are copied out of a wider page pass through a buffer that stays in the L2 cache.
SCRATCH_BYTES = 256 * 1024
# From this gap between two rows on, a system call a row is cheaper than reading the gap.
GAP_BYTES = 32 * 1024


class File(NamedTuple):
    """A file as it was when it was opened first."""

    path: str
    size: int
    """Bytes."""
    mtime_ns: int
    """Time of its last change."""


def look_at(path: str | os.PathLike[str], what: str) -> File:
    """Return a file as it is now; ``what`` it should be stands in errors.

    Raises
    ------
    MissingError, RequestError, DataError
        There is none, it is a folder, or it is empty or not to be read.
    """
    name = os.fspath(path)
    try:
        found = os.stat(name)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise MissingError(f"{what}: no such file: {name}; check the path") from error
    except OSError as error:
        raise DataError(f"{what}: cannot read {name}: {error.strerror}") from error
    if stat.S_ISDIR(found.st_mode):
        raise RequestError(f"{what}: {name} is a folder; name a file in it")
    if not found.st_size:
        raise DataError(f"{what}: {name} is empty (0 bytes); copy it again")
    # Workers may stand in another folder.
    return File(os.path.abspath(name), found.st_size, found.st_mtime_ns)


class opened:
    """Open a file to read, after a look whether it is still the same; yield its descriptor.

    Not a generator: that would take as long as to open the file.
    """

    def __init__(self, file: File) -> None:
        self._file, self._fd = file, -1

    def __enter__(self) -> int:
        path = self._file.path
        try:
            self._fd = os.open(path, os.O_RDONLY)
        except OSError as error:
            raise DataError(f"{path} was there at opening, now: {error.strerror}") from error
        try:
            found = os.fstat(self._fd)
            if (found.st_size, found.st_mtime_ns) != self._file[1:]:
                raise DataError(f"{path} has changed since it was opened; open it again")
        except BaseException as error:
            self.__exit__(type(error), error, None)
            raise
        return self._fd

    def __exit__(self, kind: Any, error: BaseException | None, _: Any) -> None:
        os.close(self._fd)
        if isinstance(error, OSError):
            path = self._file.path
            raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def using(file: File, action: Callable[[int], None]) -> None:
    """Call ``action`` with a file's descriptor, again where that failed for a moment only."""

    def attempt() -> None:
        with opened(file) as fd:
            action(fd)

    persist(attempt, file.path)


def fingerprint(rows: Any) -> str:
    """Return 32 hexadecimal digits that differ where anything in ``rows`` does."""
    return blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest()


def check_request(
    what: str, out: NDArray[Any], start: Vox, shape: Vox, dtype: np.dtype[Any]
) -> None:
    """Raise RequestError unless ``out`` can be filled from ``start`` on."""
    if (
        (out.dtype, out.ndim) != (dtype, 3)
        or min(start) < 0
        or any(a + n > m for a, n, m in zip(start, out.shape, shape, strict=True))
    ):
        raise RequestError(
            f"{what}: cannot give {out.shape} {out.dtype} voxels from {start} on; there are "
            f"{shape} {dtype}"
        )


def fill(fd: int, path: str, out: NDArray[Any], offset: int) -> None:
    """Read bytes into contiguous memory; the GIL is free while the system copies."""
    done = os.preadv(fd, [out], offset)  # type: ignore[list-item]
    while done < out.nbytes:  # a call stops short of 2 GiB
        rest = out.reshape(-1).view(np.uint8)[done:]
        if not (n := os.preadv(fd, [rest], offset + done)):  # type: ignore[list-item]
            raise DataError(f"{path} ends before byte {offset + out.nbytes}; copy it again")
        done += n


def read_rows(
    fd: int, path: str, out: NDArray[Any], offset: int, stored: np.dtype[Any], x0: int, n_x: int
) -> None:
    """Read rows (y, x) of a plain page; ``offset`` is that of the first row's start."""
    n_rows, width = out.shape
    if width == n_x and out.flags.c_contiguous and stored == out.dtype:
        return fill(fd, path, out, offset)
    row_bytes = n_x * stored.itemsize
    step = max(1, SCRATCH_BYTES // row_bytes)
    if (n_x - width) * stored.itemsize >= GAP_BYTES:
        offset, x0, n_x, step = offset + x0 * stored.itemsize, 0, width, 1
    scratch = np.empty((min(step, n_rows), n_x), stored)
    for row in range(0, n_rows, step):
        part = scratch[: n_rows - row]
        fill(fd, path, part, offset + row * row_bytes)
        np.copyto(out[row : row + step], part[:, x0 : x0 + width])
    return None


@dataclass(frozen=True)
class Plain:
    """Voxels that follow one another in a file, uncompressed."""

    offset: int
    """Byte of the first voxel."""
    shape: Vox
    """All voxels (z, y, x)."""
    stored: np.dtype[Any]
    """Type and byte order on disk."""
    fortran: bool = False
    """Whether z runs fastest, x slowest."""

    @property
    def end(self) -> int:
        """The byte after the last voxel."""
        z, y, x = self.shape
        return self.offset + z * y * x * self.stored.itemsize

    @property
    def unit(self) -> Vox:
        """The box of which a part costs as much as the whole: a column where z runs fastest."""
        column = min(self.shape[0], max(1, GAP_BYTES // self.stored.itemsize))
        return (column, 1, 1) if self.fortran else (1, 1, 1)

    def read_into(self, fd: int, path: str, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x) with the voxels from ``start`` on."""
        if not out.size:
            return
        if self.fortran:
            self._read_columns(fd, path, out, start)
            return
        (z0, y0, x0), (_, n_y, n_x) = start, self.shape
        whole = out.shape[1:] == (n_y, n_x) and out.flags.c_contiguous
        # Planes that follow one another in the file and in memory are one long row.
        parts = out.reshape(1, 1, -1) if whole and self.stored == out.dtype else out
        for i, part in enumerate(parts):
            offset = self.offset + ((z0 + i) * n_y + y0) * n_x * self.stored.itemsize
            read_rows(fd, path, part, offset, self.stored, x0, max(n_x, part.shape[1]))

    def _read_columns(self, fd: int, path: str, out: NDArray[Any], start: Vox) -> None:
        """Read a block of columns at a time, so that turning it stays in the cache."""
        (z0, y0, x0), (n_z, n_y, _) = start, self.shape
        depth, height, width = out.shape
        across = min(width, 64)  # a cache line of uint8
        down = max(1, 4 * SCRATCH_BYTES // (across * n_z * self.stored.itemsize))
        scratch = np.empty((across, min(down, height), depth), self.stored)
        for y in range(0, height, down):
            for x in range(0, width, across):
                part = scratch[: width - x, : height - y]
                for i, rows in enumerate(part):
                    row = ((x0 + x + i) * n_y + y0 + y) * n_z
                    offset = self.offset + row * self.stored.itemsize
                    read_rows(fd, path, rows, offset, self.stored, z0, n_z)
                out[:, y : y + down, x : x + across] = part.transpose(2, 1, 0)
