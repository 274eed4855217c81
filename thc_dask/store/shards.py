"""Chunks to bytes and back: the codec, and the zarr v3 sharding layout.

A shard is its chunks, one after the other, then the index: (offset, size) of every chunk in C
order as little-endian uint64, then the crc32c of the index. A chunk is a zstd frame and its
crc32c. A chunk of zeros is not stored.
"""

from __future__ import annotations

import itertools
import math
import struct
import threading
from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import google_crc32c
import numpy as np
import zstandard
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError
from thc_dask.grid import Extent, Vox
from thc_dask.store import zstd
from thc_dask.store.location import Location, Opened, OpenFile, Sink
from thc_dask.store.zstd import Parameters

if TYPE_CHECKING:
    from thc_dask.store.pipeline import Encoding

ABSENT = 2**64 - 1
ENTRY = struct.Struct("<QQ")  # of the index: where a chunk begins, and its bytes
CRC_BYTES = 4
CRC_RESIDUE = 0x48674BC7


@dataclass(frozen=True)
class Codec:
    """How a chunk is compressed; always a plain zstd frame.

    >>> Codec.parse("zstd:3")
    Codec(level=3)
    """

    level: int | None = None
    """zstd level; None for frames tuned to CT noise (docs/decisions/0002)."""

    @classmethod
    def parse(cls, text: str) -> Codec:
        """Return the codec of ``zstd`` or ``zstd:LEVEL``."""
        name, _, level = text.partition(":")
        if name != "zstd" or (level and not level.lstrip("-").isdigit()):
            raise RequestError(f"codec {text!r}: give zstd, or zstd:LEVEL with a level of 1 to 19")
        if level and not 1 <= int(level) <= 19:
            raise RequestError(f"codec {text!r}: zstd levels go from 1 to 19")
        return cls(int(level) if level else None)

    def __str__(self) -> str:
        return "zstd" if self.level is None else f"zstd:{self.level}"

    @property
    def parameters(self) -> Parameters:
        """The library's own names of what differs from its defaults."""
        if self.level is not None:
            return (("compressionLevel", self.level),)
        # Hardly any repeats: a small table and long matches skip most of the search; the literals
        # are still entropy coded (target length 0).
        return (
            ("windowLog", 18), ("hashLog", 8), ("chainLog", 6), ("searchLog", 1), ("minMatch", 7),
            ("targetLength", 0), ("strategy", zstandard.STRATEGY_FAST),
        )  # fmt: skip

    @property
    def parameters_of_noise(self) -> Parameters:
        """The same for what does not repeat itself: none where that makes no difference.

        CT noise has no repeats: what compresses is entropy. Frames of literals alone are made
        faster, and read faster (``store.zstd``).
        """
        if self.level is not None or not zstd.is_callable():
            return ()
        return (
            ("windowLog", 18), ("hashLog", 6), ("chainLog", 6), ("searchLog", 1), ("minMatch", 7),
            ("targetLength", 2**17), ("strategy", zstandard.STRATEGY_FAST),
            ("literalCompressionMode", 1), ("splitAfterSequences", 2), ("blockSplitterLevel", 1),
        )  # fmt: skip


class Scratch(threading.local):
    """What each thread keeps and uses again: fresh memory is slow."""

    def __init__(self) -> None:
        self._arrays: dict[tuple[str, tuple[int, ...], str], NDArray[Any]] = {}
        self.decompressor = zstandard.ZstdDecompressor()

    def array(self, use: str, shape: Sequence[int], dtype: np.dtype[Any]) -> NDArray[Any]:
        """Return this thread's array for a use; its content is whatever was there before."""
        key = (use, tuple(shape), dtype.str)
        if key not in self._arrays:
            # One array a use: a shape that changes (at the far faces) replaces the last one.
            self._arrays = {k: a for k, a in self._arrays.items() if k[0] != use}
            self._arrays[key] = np.empty(shape, dtype)
        return self._arrays[key]


scratch = Scratch()


class ShardWriter:
    """One shard being written, chunk by chunk, in a fixed order so that bytes repeat."""

    def __init__(self, sink: Sink, chunks: Vox, codec: Codec) -> None:
        self._sink, self._chunks, self._codec = sink, chunks, codec
        self._index = bytearray(ENTRY.pack(ABSENT, ABSENT) * math.prod(chunks))
        self._size = 0
        self._checksums = bytearray()

    def append(self, place: Vox, data: bytes) -> None:
        """Add a compressed chunk with its place in the shard (z, y, x)."""
        self._enter(place, len(data) + CRC_BYTES)
        self._write(data)

    def encode(self, encoding: Encoding, places: Sequence[Vox]) -> None:
        """Have the chunks of an encoding made at the end of the shard, each with its place."""
        done = 0
        while done < len(places):
            room = self._sink.room(encoding.most_bytes)
            into = encoding.memory_for_all() if room is None else room
            found = encoding.run(into, done)
            n = self._note(places[done : done + len(found)], found)
            if room is None:
                self._sink.append([into[:n]])
            else:
                self._sink.added(n)
            done += len(found)

    def _note(self, places: Sequence[Vox], found: NDArray[np.int64]) -> int:
        """Note what ``Encoding.run`` has made; return how many bytes that is."""
        # One by one: numpy takes longer for the few that are made at a time.
        before = self._size
        for place, (n_bytes, crc) in zip(places, found.tolist(), strict=True):
            if n_bytes:
                self._enter(place, n_bytes + CRC_BYTES)
                self._checksums += crc.to_bytes(CRC_BYTES, "little")
                self._size += n_bytes + CRC_BYTES
        return self._size - before

    def _enter(self, place: Vox, n_bytes: int) -> None:
        """Say in the index where the next chunk is."""
        _, n_y, n_x = self._chunks
        z, y, x = place
        ENTRY.pack_into(self._index, ENTRY.size * ((z * n_y + y) * n_x + x), self._size, n_bytes)

    def pause(self) -> None:
        """Hold as little as possible until chunks are added again."""
        self._sink.pause()

    @property
    def is_empty(self) -> bool:
        """Whether all its chunks are zero: such a shard is not stored."""
        return self._size == 0

    def close(self) -> None:
        """Write the index; no chunk can be added after that, and no buffer is held any longer."""
        self._write(bytes(self._index))
        self._sink.close()  # many closed shards may wait until they are made safe

    def commit(self) -> dict[str, int]:
        """Make the closed shard appear, return its receipt."""
        self._sink.commit()
        return {"n_bytes": self._size, "crc32c": crc_of_crcs(self._checksums)}

    def abort(self) -> None:
        """Leave nothing behind."""
        self._sink.abort()

    def _write(self, data: bytes) -> None:
        """Add bytes and their crc32c."""
        crc = crc_bytes(data)
        self._checksums += crc
        self._sink.append([data, crc])
        self._size += len(data) + CRC_BYTES


def crc_bytes(data: bytes) -> bytes:
    """Return the crc32c of ``data`` as zarr stores it: four bytes, little-endian."""
    return int(google_crc32c.value(data)).to_bytes(4, "little")


def crc_of_crcs(checksums: bytes | bytearray) -> int:
    """Return what tells one shard from another: the crc32c of its checksums, in file order.

    The crc32c of the whole file would not: behind its own checksum whatever data leave the same
    rest, so it would only tell how long the chunks are.
    """
    return int(google_crc32c.value(bytes(checksums)))


def crc_fits(data: bytes) -> bool:
    """Whether ``data`` ends in the crc32c of what stands before.

    >>> crc_fits(b"voxels" + crc_bytes(b"voxels")), crc_fits(b"voxels" + crc_bytes(b"pixels"))
    (True, False)
    """
    # The crc of anything followed by its own crc is one constant: no slice, no copy.
    return bool(google_crc32c.value(data) == CRC_RESIDUE)


def encode_chunk(chunk: NDArray[Any], codec: Codec) -> bytes | None:
    """Return the zstd frame of a C-contiguous chunk, None where it is all zero."""
    # One voxel says of most chunks that they are not zero; max() is the fastest look at all.
    if not chunk.item(chunk.size // 2) and not chunk.max():
        return None
    data = chunk.data.cast("B")
    noise = codec.parameters_of_noise
    return zstd.compress(noise if noise and not zstd.repeats(data) else codec.parameters, data)


class ArrayReader:
    """Reads chunks of one sharded array; safe for threads, and pickles without its caches."""

    def __init__(
        self,
        location: Location,
        path: str,
        shape: Vox,
        chunk: Vox,
        shard: Vox,
        dtype: np.dtype[Any],
        named: Container[str] = (),
    ) -> None:
        self.location, self.path = location, path
        self._named = named  # keys of shards that must be there; others may be zeros
        self.shape, self.chunk, self.shard, self.dtype = shape, chunk, shard, dtype
        z, y, x = (s // c for s, c in zip(shard, chunk, strict=True))
        self.chunks_per_shard: Vox = (z, y, x)
        self._indexes: dict[Vox, NDArray[np.uint64] | None] = {}
        self.n_bytes_read = 0

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_indexes": {}, "n_bytes_read": 0}

    @property
    def unit(self) -> Vox:
        """What is decoded at a time: a chunk."""
        return self.chunk

    def chunks(self, extent: Extent) -> list[Vox]:
        """Return the places of the chunks that ``extent`` touches, shard by shard."""
        if extent.n_vox == 0:
            return []
        ranges = [
            range(a // c, -(-b // c))
            for a, b, c in zip(extent.start, extent.stop, self.chunk, strict=True)
        ]
        places = [(z, y, x) for z in ranges[0] for y in ranges[1] for x in ranges[2]]
        return sorted(places, key=lambda p: (self._shard_of(p), p))

    def places(self, extents: Iterable[Extent]) -> NDArray[np.int64]:
        """Return the places (chunk, 3) of the chunks that any of ``extents`` touches, rising."""
        ends = np.array([(e.start, e.stop) for e in extents], np.int64).reshape(-1, 2, 3)
        starts, stops = ends[:, 0] // self.chunk, -(-ends[:, 1] // self.chunk)
        if not len(ends):
            return starts
        first = starts.min(axis=0)  # a box asks for few of a volume's chunks
        touched = np.zeros(stops.max(axis=0) - first, bool)
        for start, stop in zip(starts - first, stops - first, strict=True):
            z, y, x = map(slice, start.tolist(), stop.tolist())
            touched[z, y, x] = True
        found: NDArray[np.int64] = first + np.argwhere(touched)
        return found

    def shards(self, extent: Extent) -> list[Vox]:
        """Return the places of the shards that ``extent`` touches."""
        z, y, x = (
            range(a // s, -(-b // s))
            for a, b, s in zip(extent.start, extent.stop, self.shard, strict=True)
        )
        return list(itertools.product(z, y, x))

    def chunk_extent(self, place: Vox) -> Extent:
        """Return the voxels of a chunk that exist."""
        start = tuple(p * c for p, c in zip(place, self.chunk, strict=True))
        stop = tuple(min(a + c, n) for a, c, n in zip(start, self.chunk, self.shape, strict=True))
        return Extent(start, stop)  # type: ignore[arg-type]

    def get(self, place: Vox) -> NDArray[Any] | None:
        """Return a whole chunk, read-only, None where it is not stored (all zero).

        Raises
        ------
        DataError
            The shard is damaged; the message names it and the chunk.
        """
        with self.open_shard(place) as shard:
            return shard.get(place)

    def open_shard(self, place: Vox, wanted: Sequence[Vox] = ()) -> OpenShard:
        """Return the shard that holds a chunk, for reading several of its chunks.

        ``wanted`` are those that will be read, each once: far away they are asked for at once.
        """
        return OpenShard(self, self._shard_of(place), wanted if self.location.far else ())

    def by_shard(self, extent: Extent) -> Iterator[tuple[OpenShard, list[Vox]]]:
        """Yield the shards that ``extent`` touches, opened, each with the chunks to read."""
        for _, group in itertools.groupby(self.chunks(extent), self._shard_of):
            places = list(group)
            with self.open_shard(places[0], places) as shard:
                yield shard, places

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` with the voxels from ``start`` on."""
        (z0, y0, x0), (nz, ny, nx) = start, out.shape
        wanted = Extent(start, (z0 + nz, y0 + ny, x0 + nx))
        for shard, places in self.by_shard(wanted):
            for place in places:
                have = self.chunk_extent(place)
                both = have.intersect(wanted)
                chunk = shard.get(place)
                target = out[both.shift((-z0, -y0, -x0)).slices]
                if chunk is None:
                    target[...] = 0
                else:
                    z, y, x = have.start
                    target[...] = chunk[both.shift((-z, -y, -x)).slices]

    def key(self, shard: Vox) -> str:
        """Return the key of a shard."""
        return shard_key(self.path, shard)

    def _shard_of(self, place: Vox) -> Vox:
        z, y, x = (p // n for p, n in zip(place, self.chunks_per_shard, strict=True))
        return z, y, x

    def _index(self, shard: Vox, whole: bytes | None = None) -> NDArray[np.uint64] | None:
        """Return the index of a shard, taken from ``whole`` if all of it is at hand."""
        if shard not in self._indexes:
            n = 16 * math.prod(self.chunks_per_shard) + 4
            data = whole[-n:] if whole else self.location.get_range(self.key(shard), -n, n)
            if data is None and self.key(shard) in self._named:
                raise DataError(
                    f"{self.location.url}/{self.key(shard)} is missing; run thc verify --repair"
                )
            if data is not None and (len(data) != n or not crc_fits(data)):
                raise DataError(
                    f"{self.location.url}/{self.key(shard)}: the shard's index is damaged; "
                    "run thc verify"
                )
            self._indexes[shard] = (
                None
                if data is None
                else np.frombuffer(data, "<u8", count=n // 8).reshape(*self.chunks_per_shard, 2)
            )
        return self._indexes[shard]


class Whole:
    """A shard that was read at once."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def read(self, start: int, n: int) -> bytes:
        return self._data[start : start + n]

    def close(self) -> None:
        self._data = b""


class OpenShard:
    """One shard, opened once however many of its chunks are read."""

    def __init__(self, array: ArrayReader, shard: Vox, wanted: Sequence[Vox] = ()) -> None:
        self._array, self._key = array, array.key(shard)
        self.chunk, self.dtype = array.chunk, array.dtype
        self._first = tuple(p * n for p, n in zip(shard, array.chunks_per_shard, strict=True))
        self._held: dict[tuple[int, int], bytes] = {}
        self._object: Opened | None = None
        whole = array.location.get(self._key) if self._are_all(wanted) else None
        self._index = array._index(shard, whole)
        if self._index is None:
            return
        if whole is not None:
            self._object = Whole(whole)
            return
        self._object = array.location.opened(self._key)
        if len(wanted) > 1:
            self._hold(wanted)

    def __enter__(self) -> OpenShard:
        return self

    def __exit__(self, *_: object) -> None:
        if self._object is not None:
            self._object.close()

    def _are_all(self, wanted: Sequence[Vox]) -> bool:
        """Whether these are all chunks of the shard."""
        array = self._array
        grid = (-(-n // c) for n, c in zip(array.shape, array.chunk, strict=True))
        there = [
            min(n, all_ - a)
            for a, n, all_ in zip(self._first, array.chunks_per_shard, grid, strict=True)
        ]
        return len(set(wanted)) == math.prod(there)

    def _hold(self, wanted: Sequence[Vox]) -> None:
        """Read chunks at once, those that lie side by side as one piece."""
        entries = sorted({self.entry(place) for place in wanted} - {(ABSENT, ABSENT)})
        runs = list(_runs(entries))
        ranges = [(start, n) for start, n, _ in runs]
        parts = self._array.location.get_ranges(self._key, ranges) if ranges else []
        for (start, _, some), part in zip(runs, parts or [], strict=bool(parts)):
            for offset, size in some:
                self._held[offset, size] = part[offset - start :][:size]

    @property
    def index(self) -> NDArray[np.uint64] | None:
        """Offset and size of every chunk (z, y, x, 2); None where there is no shard."""
        return self._index

    def entry(self, place: Vox) -> tuple[int, int]:
        """Return offset and size of a chunk, as the index has them."""
        (z, y, x), (z0, y0, x0) = place, self._first
        _, n_y, n_x = self._array.chunks_per_shard
        i = 2 * (((z - z0) * n_y + y - y0) * n_x + x - x0)
        return self._entries[i], self._entries[i + 1]

    @cached_property
    def _entries(self) -> list[int]:
        return [] if self._index is None else self._index.ravel().tolist()

    def get(self, place: Vox) -> NDArray[Any] | None:
        """Return a whole chunk as ``ArrayReader.get`` does."""
        if self._index is None:
            return None
        entry = self.entry(place)
        if entry[0] == ABSENT:
            return None
        return self.decoded(place, self.read_all([entry])[0])

    def read_all(self, entries: Sequence[tuple[int, int]]) -> list[bytes]:
        """Return the bytes of stored chunks; those that lie side by side are read as one piece."""
        found = {e: self._held.pop(e) for e in entries if e in self._held}
        rest = sorted(e for e in entries if e not in found)
        for start, n, some in _runs(rest):
            data = b"" if self._object is None else self._object.read(start, n)
            for offset, size in some:
                found[offset, size] = data[offset - start :][:size]
        return [found.get(e, b"") for e in entries]  # of no bytes: no checksum fits

    def entries(self, places: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return offset and size of chunks by their places (chunk, 3), as the index has them."""
        if self._index is None:
            return np.full((len(places), 2), ABSENT, np.uint64)
        z, y, x = (places - self._first).T
        found: NDArray[np.uint64] = self._index[z, y, x]
        return found

    def sources(self, entries: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return where the bytes of stored chunks are, for reading them past the interpreter.

        (chunk, 3): file, offset and size; or -1, address and size, where they are in memory that
        this object keeps.
        """
        self._array.n_bytes_read += int(entries[:, 1].sum())
        if isinstance(self._object, OpenFile) and not self._held:
            found = np.empty((len(entries), 3), np.int64)
            found[:, 0], found[:, 1:] = self._object.fileno(), entries
            return found
        asked = [(start, size) for start, size in entries.tolist()]
        there = [entry for entry in asked if entry not in self._held]
        self._held.update(zip(there, self.read_all(there), strict=True))
        pieces = [np.frombuffer(self._held[entry], np.uint8) for entry in asked]
        # Fewer than the index says: the checksum of what is there will not fit.
        places = [(-1, piece.ctypes.data, len(piece)) for piece in pieces]
        return np.array(places, np.int64).reshape(-1, 3)

    def decoded(self, place: Vox, data: bytes) -> NDArray[Any]:
        """Return a chunk from its bytes; DataError where these are damaged."""
        _, size = self.entry(place)
        if len(data) != size or not crc_fits(data):
            raise self._damaged(place, "is damaged (checksum); run thc verify")
        try:
            return self.shaped(
                place, scratch.decompressor.decompress(memoryview(data)[:-CRC_BYTES])
            )
        except zstandard.ZstdError as error:
            raise self._damaged(place, f"cannot be decoded ({error})") from error

    def shaped(self, place: Vox, raw: Any) -> NDArray[Any]:
        """Return what was decoded as a chunk; DataError where it has not that size."""
        array = self._array
        try:
            chunk = np.frombuffer(raw, array.dtype).reshape(array.chunk)
        except ValueError as error:
            raise self._damaged(place, f"cannot be decoded ({error})") from error
        array.n_bytes_read += self.entry(place)[1]
        return chunk

    def _damaged(self, place: Vox, why: str) -> DataError:
        inside = tuple(p - a for p, a in zip(place, self._first, strict=True))
        return DataError(f"{self._array.location.url}/{self._key}: chunk {inside} {why}")


def _runs(
    entries: Sequence[tuple[int, int]],
) -> Iterator[tuple[int, int, Sequence[tuple[int, int]]]]:
    """Yield pieces (start, size) of sorted entries (offset, size) that lie side by side, with them.

    >>> list(_runs([(0, 4), (4, 6), (12, 1)]))
    [(0, 10, [(0, 4), (4, 6)]), (12, 1, [(12, 1)])]
    """
    first = 0
    for i, (offset, size) in enumerate(entries):
        stop = offset + size
        if i + 1 == len(entries) or entries[i + 1][0] != stop:
            start = entries[first][0]
            if stop > start:
                yield start, stop - start, entries[first : i + 1]
            first = i + 1


def shard_key(path: str, shard: Sequence[int]) -> str:
    """Return the key of a shard of the array at ``path``.

    >>> shard_key("0/image", (0, 1, 2))
    '0/image/c/0/1/2'
    """
    return f"{path}/c/{'/'.join(map(str, shard))}"
