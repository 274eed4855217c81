"""Whether what metadata say fits the arrays: nodes against the layout, shards against both.

Checksums prove that nothing changed since it was written. These questions find what was written
wrong, or changed by a program that mended the checksums too.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numpy as np
import zstandard
from numpy.typing import NDArray

from thc_dask.grid import AXES
from thc_dask.store import metadata
from thc_dask.store.layout import Level
from thc_dask.store.location import Location
from thc_dask.store.read import Store
from thc_dask.store.shards import ABSENT, CRC_BYTES, Codec, crc_fits, crc_of_crcs

PIECE_BYTES = 2**18  # of a file that is read at once: larger pieces do not stay in the cache
REQUEST_BYTES = 2**24  # the same where each is a request over a network
HEADER_BYTES = 18  # the longest start of a zstd frame


@dataclass(frozen=True)
class Problem:
    """One file that is not what it should be."""

    key: str
    """The file, below the store."""
    what: str
    """``missing``, ``truncated``, ``damaged``; ``wrong`` where its checksum is right and its
    content is not; ``unfinished`` (a journal), ``left over``, ``unknown``."""
    why: str = ""
    """What contradicts it, where that is not plain."""


@dataclass(frozen=True)
class Pyramid:
    """The arrays of an image or a label set, as the layout wants them."""

    prefix: str
    """``labels/roi/``, empty for the image."""
    name: str
    """Of the arrays."""
    dtype: np.dtype[Any]
    codec: Codec

    def path(self, level: Level) -> str:
        """Return the path of the array of a level."""
        return f"{self.prefix}{level.index}/{self.name}"


def pyramids(store: Store) -> Iterator[Pyramid]:
    """Yield what the arrays of a store should be."""
    dtype: np.dtype[Any] = np.dtype(store.nodes["0/image"]["data_type"])
    yield Pyramid("", "image", dtype, Codec.parse(store.thc["codec"]))
    for name, labels in store.label_sets.items():
        dtype = np.dtype(np.uint8 if labels.scheme.codes[-1] < 256 else np.uint16)
        yield Pyramid(f"labels/{name}/", name, dtype, Codec.parse(labels.thc["codec"]))


def contradictions(store: Store) -> Iterator[Problem]:
    """Yield the metadata files that do not say what the layout comes to."""
    wanted = list(pyramids(store))
    if wanted[0].dtype not in (np.uint8, np.uint16):
        yield Problem("0/image/zarr.json", "wrong", f"voxels of type {wanted[0].dtype.name}")
    for pyramid in wanted:
        group = pyramid.prefix.rstrip("/")
        owner = store.nodes.get(group, {}) if group else store.root
        ome = owner.get("attributes", {}).get("ome", {})
        method = metadata.MODE if group else metadata.MEAN
        said: dict[str, Any] = {
            "multiscales": metadata.multiscales(pyramid.name, store.levels, method)
        }
        if group:
            said["image-label"] = metadata.image_label(store.label_set(pyramid.name).scheme)
            extents = store.label_set(pyramid.name).extents
            if not all(e.n_vox and store.grid.extent.contains(e) for e in extents):
                yield Problem(f"{group}/zarr.json", "wrong", "extents outside the volume")
        for key, value in said.items():
            if ome.get(key) != value:
                yield Problem(
                    f"{group}/zarr.json".lstrip("/"), "wrong", f"its {key} contradict the layout"
                )
        for path, node in _nodes(pyramid, store.levels):
            have = store.nodes.get(path, {})
            odd = sorted(k for k in node if k != "attributes" and have.get(k) != node[k])
            if odd:
                yield Problem(
                    f"{path}/zarr.json", "wrong", f"its {', '.join(odd)} contradict the layout"
                )


def _nodes(pyramid: Pyramid, levels: list[Level]) -> Iterator[tuple[str, metadata.Node]]:
    for level in levels:
        top = f"{pyramid.prefix}{level.index}"
        yield top, metadata.group()
        yield (
            pyramid.path(level), metadata.sharded_array(level, pyramid.dtype, pyramid.codec, {})
        )  # fmt: skip
        for axis, name in enumerate(AXES):
            yield f"{top}/{name}", metadata.coordinate_array(level.grid, axis)[0]


@dataclass(frozen=True)
class ShardShape:
    """What the shards of one level must be made of."""

    n_chunks: int
    """In a shard."""
    chunk_bytes: int
    """Of the voxels of a chunk."""
    places: tuple[int, int, int]
    """How many shards there may be along z, y, x."""


def shard_shapes(store: Store) -> dict[str, ShardShape]:
    """Return what the shards must be, by the path of their array."""
    found = {}
    for pyramid in pyramids(store):
        for level in store.levels:
            z, y, x = (math.ceil(n / s) for n, s in zip(level.grid.shape, level.shard, strict=True))
            n_bytes = math.prod(level.chunk) * pyramid.dtype.itemsize
            shape = ShardShape(math.prod(level.chunks_per_shard), n_bytes, (z, y, x))
            found[pyramid.path(level)] = shape
    return found


@dataclass(frozen=True)
class Look:
    """What reading an object through has shown."""

    n_bytes: int
    crc32c: int
    """As receipts have it: of a shard that of its checksums, else that of all bytes."""
    what: str = ""
    """``damaged`` or ``wrong``; empty where it is a sound shard of its array, or no shard."""
    why: str = ""


def look_through(location: Location, key: str, shape: ShardShape | None = None) -> Look:
    """Read an object through, as a shard of ``shape`` if that is given.

    It is read piece by piece: objects of any size pass through little memory.
    """
    piece = REQUEST_BYTES if "://" in location.url else PIECE_BYTES
    size = location.size(key) or 0
    if shape is not None:
        return _look_through_shard(location, key, size, shape, piece)
    crc, at = 0, 0
    while at < size and (data := location.get_range(key, at, min(piece, size - at))):
        crc, at = google_crc32c.extend(crc, data), at + len(data)
    return Look(at, int(crc))


def _look_through_shard(
    location: Location, key: str, size: int, shape: ShardShape, piece: int
) -> Look:
    what, why, ends, last = _index(location, key, size, shape)
    checksums = bytearray()
    i = 0
    while not why and i + 1 < len(ends):
        # Whole chunks at a time, as many as make a piece, at least one.
        j = max(i + 1, int(np.searchsorted(ends, ends[i] + piece, "right")) - 1)
        data = location.get_range(key, int(ends[i]), int(ends[j] - ends[i])) or b""
        for a, b in itertools.pairwise((ends[i : j + 1] - ends[i]).tolist()):
            chunk = data[a:b]
            if len(chunk) != b - a or not crc_fits(chunk):
                what, why = "damaged", f"the chunk at byte {ends[i] + a}"
                break
            if _frame_bytes(chunk) != shape.chunk_bytes:
                held = f"does not hold {shape.chunk_bytes} bytes"
                what, why = "wrong", f"the chunk at byte {ends[i] + a} {held}"
                break
            checksums += chunk[-CRC_BYTES:]
        i = j
    return Look(size, crc_of_crcs(checksums + last), what, why)


def _frame_bytes(chunk: bytes) -> int:
    """Return how many bytes a zstd frame says that it holds."""
    try:
        return int(zstandard.frame_content_size(chunk[:HEADER_BYTES]))
    except zstandard.ZstdError:
        return -1


def _index(
    location: Location, key: str, size: int, shape: ShardShape
) -> tuple[str, str, NDArray[np.int64], bytes]:
    """Return what is wrong with a shard's index, where its chunks begin and end, and its crc."""
    none = np.empty(0, np.int64)
    parts = key.rsplit("/", 3)[1:]
    if not all(p.isdigit() and int(p) < n for p, n in zip(parts, shape.places, strict=True)):
        return "wrong", "it lies outside the volume", none, b""
    n = 16 * shape.n_chunks + CRC_BYTES
    data = location.get_range(key, -n, n)
    if data is None or len(data) != n or not crc_fits(data):
        return "damaged", f"it does not end in an index of {shape.n_chunks} chunks", none, b""
    index = np.frombuffer(data, "<u8", count=2 * shape.n_chunks).reshape(-1, 2)
    stored = index[index[:, 0] != ABSENT].astype(np.int64)
    stored = stored[np.argsort(stored[:, 0])]
    ends = np.concatenate([[0], stored.sum(axis=1)])
    if not len(stored) or (ends != [*stored[:, 0], size - n]).any():
        return "wrong", "its index does not cover the file", none, b""
    return "", "", ends, data[-CRC_BYTES:]
