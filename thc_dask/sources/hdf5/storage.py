"""How the voxels of a dataset lie in their file, and how they get from there into memory.

The HDF5 library does one thing at a time, however many threads ask. So the places of the chunks
are taken down at opening, and reading them goes past the library: by plain reads and decoders
that run side by side. What cannot be read that way (virtual datasets, rare filters) goes through
the library.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError
from thc_dask.files import Plain, fill
from thc_dask.grid import Vox

SHUFFLE, FLETCHER32 = 2, 3
# Registered numbers of filters, and the decoder (of imagecodecs) for each.
DECODERS = {
    1: "deflate_decode",  # libdeflate: twice as fast as the library's zlib
    32000: "lzf_decode",
    32001: "blosc_decode",
    32004: "lz4h5_decode",
    32015: "zstd_decode",
}
# Filters in the order in which they are applied to a chunk that is written.
ORDER = {SHUFFLE: 0, **dict.fromkeys(DECODERS, 1), FLETCHER32: 2}


@dataclass(frozen=True, eq=False)
class Chunks:
    """Chunks of a file, each at its own place, perhaps compressed."""

    shape: Vox
    """All voxels (z, y, x)."""
    chunk: Vox
    """Voxels of a chunk (z, y, x); chunks at the far faces are whole, too."""
    stored: np.dtype[Any]
    """Type and byte order on disk."""
    filters: tuple[int, ...]
    """Numbers of the filters, in the order in which they were applied."""
    fill_value: Any
    """Value of the voxels of chunks that were never written."""
    table: NDArray[np.int64] = field(repr=False)
    """(z, y, x, 3): offset and size of each chunk in bytes, and which filters were left out."""

    def read_into(self, fd: int, path: str, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x) with the voxels from ``start`` on; each chunk is decoded once."""
        # Fresh memory is slow: these two serve every chunk of this call.
        packed, unpacked = np.empty(0, np.uint8), np.empty(self.n_bytes, np.uint8)
        for cuts in itertools.product(*map(_cuts, start, out.shape, self.chunk)):
            place, where, inside = zip(*cuts, strict=True)
            offset, size, left_out = self.table[place].tolist()
            if size < 0:
                out[where] = self.fill_value
                continue
            if len(packed) < size:
                packed = np.empty(size, np.uint8)
            fill(fd, path, packed[:size], offset)
            try:
                self._unpack(packed[:size], left_out, unpacked, out[where], inside)
            except Exception as error:  # every codec has an error of its own
                reason = " ".join(str(error).split())
                raise DataError(
                    f"hdf5: {path}: chunk {place} (z,y,x) cannot be decoded, the file is damaged: "
                    f"{reason}"
                ) from error

    @property
    def n_bytes(self) -> int:
        """Bytes of a whole chunk in memory."""
        return math.prod(self.chunk) * self.stored.itemsize

    def _unpack(
        self, data: NDArray[Any], left_out: int, scratch: NDArray[Any], part: NDArray[Any],
        inside: tuple[slice, ...],
    ) -> None:  # fmt: skip
        """Decode a chunk and copy what is ``inside`` it to ``part``."""
        used = [f for i, f in enumerate(self.filters) if not left_out >> i & 1]
        shuffled = SHUFFLE in used and self.stored.itemsize > 1
        direct = part.shape == self.chunk and part.flags.c_contiguous and self.stored.isnative
        for number in reversed(used):
            if number == FLETCHER32:
                data = _checked(data)
            elif number != SHUFFLE:
                target = part.reshape(-1).view(np.uint8) if direct and not shuffled else scratch
                data = _decode(number, data, target)
        if data.size != self.n_bytes:
            raise ValueError(f"{data.size} bytes instead of {self.n_bytes}")
        if shuffled:
            planes = data.reshape(self.stored.itemsize, *self.chunk)
            _unshuffle(planes[(slice(None), *inside)], part, self.stored)
        elif not np.may_share_memory(data, part):
            np.copyto(part, data.view(self.stored).reshape(self.chunk)[inside])


def _cuts(start: int, n: int, chunk: int) -> list[tuple[int, slice, slice]]:
    """Return the chunks along an axis: number, where in the box, and what of the chunk.

    >>> _cuts(5, 4, 8)
    [(0, slice(0, 3, None), slice(5, 8, None)), (1, slice(3, 4, None), slice(0, 1, None))]
    """
    cuts = []
    for i in range(start // chunk, -(-(start + n) // chunk) if n else 0):
        a = i * chunk - start
        low, high = max(a, 0), min(a + chunk, n)
        cuts.append((i, slice(low, high), slice(low - a, high - a)))
    return cuts


def _checked(data: NDArray[Any]) -> NDArray[Any]:
    import imagecodecs

    body = data[:-4]
    if imagecodecs.h5checksum_fletcher32(body.tobytes()) != int.from_bytes(
        data[-4:].tobytes(), "little"
    ):
        raise ValueError("its checksum is wrong")
    return body


def _decode(number: int, data: NDArray[Any], target: NDArray[Any]) -> NDArray[Any]:
    import imagecodecs

    decode: Callable[..., Any] = getattr(imagecodecs, DECODERS[number])
    return np.frombuffer(decode(data, out=target), np.uint8)


def _unshuffle(planes: NDArray[Any], part: NDArray[Any], stored: np.dtype[Any]) -> None:
    """Put voxels together whose first bytes, second bytes, ... lie one after the other."""
    n = stored.itemsize
    pieces = part.view(np.dtype([("byte", np.uint8, (n,))]))["byte"]
    swapped = not stored.isnative
    for i in range(n):
        pieces[..., n - 1 - i if swapped else i] = planes[i]


@dataclass(frozen=True)
class Library:
    """A dataset that is read through the HDF5 library, one thread at a time."""

    dataset: str
    """Its path in the file that was named."""

    def read_into(self, path: str, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x) with the voxels from ``start`` on."""
        import h5py  # type: ignore[import-untyped]

        z, y, x = (slice(a, a + n) for a, n in zip(start, out.shape, strict=True))
        try:
            with h5py.File(path, "r") as file:
                dataset = file[self.dataset]
                out[...] = dataset[z, y, x] if dataset.ndim == 3 else dataset[y, x]
        except (OSError, KeyError, RuntimeError) as error:
            reason = " ".join(str(error).split())
            raise DataError(f"hdf5: cannot read {self.dataset} of {path}: {reason}") from error


def storage_of(dataset: Any) -> Plain | Chunks | None:
    """Return where a dataset's voxels lie; None where only the library can tell."""
    import h5py

    plist = dataset.id.get_create_plist()
    filters = [plist.get_filter(i) for i in range(plist.get_nfilters())]
    _check_filters(dataset, [(f[0], f[3]) for f in filters])
    kind = h5py.h5t.py_create(dataset.dtype, logical=True)
    # Behind a user block, not every version of the library gives places from the file's start.
    if dataset.file.userblock_size or not dataset.id.get_type().equal(kind):
        return None
    stored = np.dtype(np.uint8 if dataset.dtype.kind == "b" else dataset.dtype.str)
    shape = three(dataset.shape)
    if plist.get_layout() == h5py.h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        return None if offset is None else Plain(offset, shape, stored)
    numbers = [f[0] for f in filters]
    steps = [ORDER.get(number, -1) for number in numbers]
    if plist.get_layout() != h5py.h5d.CHUNKED or -1 in steps or steps != sorted(set(steps)):
        return None
    chunk = three(dataset.chunks)
    table = _table(dataset, shape, chunk)
    fill_value = np.asarray(dataset.fillvalue).astype(stored)[()]
    return Chunks(shape, chunk, stored, tuple(numbers), fill_value, table)


def three(sizes: Sequence[int], first: int = 1) -> Vox:
    """Return sizes along (z, y, x); ``first`` is that along z of a plane."""
    z, y, x = (first, *sizes) if len(sizes) == 2 else sizes
    return z, y, x


def _table(dataset: Any, shape: Vox, chunk: Vox) -> NDArray[np.int64]:
    counts = tuple(-(-n // c) for n, c in zip(shape, chunk, strict=True))
    table = np.full((*counts, 3), -1, np.int64)

    def add(info: Any) -> None:
        place = tuple(a // c for a, c in zip(three(info.chunk_offset, 0), chunk, strict=True))
        table[place] = info.byte_offset, info.size, info.filter_mask

    dataset.id.chunk_iter(add)
    return table


def _check_filters(dataset: Any, filters: Sequence[tuple[int, bytes]]) -> None:
    """Raise RequestError for a filter that neither we nor the library know."""
    import h5py

    for number, name in filters:
        if number not in ORDER and not h5py.h5z.filter_avail(number):
            raise RequestError(
                f"hdf5: {dataset.name} of {dataset.file.filename} is compressed by filter {number} "
                f"({name.decode(errors='replace')}), which the HDF5 library here lacks; set "
                "HDF5_PLUGIN_PATH to where it is (package hdf5plugin)"
            )
