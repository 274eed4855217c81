"""The pyramid that is written: where shards and receipts are, and what has been written of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.grid import Extent, Grid, Vox
from thc_dask.reader import Reader
from thc_dask.store import imagecounts
from thc_dask.store.books import receipts_key
from thc_dask.store.halving import Halving
from thc_dask.store.layout import Level
from thc_dask.store.location import Location
from thc_dask.store.shards import ArrayReader, Codec, scratch

Receipt = dict[str, Any]

LOOKS = 64  # receipts of an interrupted run that are looked at side by side: most of it is waiting


@dataclass(frozen=True)
class Target:
    """The pyramid that is written."""

    location: Location
    prefix: str
    """Group of the pyramid: empty for the image, ``labels/roi/`` for a label set."""
    name: str
    """Name of the arrays: ``image``, ``roi``."""
    dtype: np.dtype[Any]
    """Type of the voxels."""
    codec: Codec
    halving: Halving
    replaces: bool = False
    """Whether shards are there already that are to go where now all is zero."""
    counted: bool = False
    """Whether the intensities of the finest level are counted on the way."""

    def path(self, level: Level) -> str:
        """Return the path of the array of a level."""
        return f"{self.prefix}{level.index}/{self.name}"

    @property
    def what(self) -> str:
        """What books call it: ``image``, ``labels/roi``."""
        return self.prefix.rstrip("/") or self.name

    def receipt_key(self, wave: int, place: Sequence[int]) -> str:
        """Return where the receipt of a finished column lies until the pyramid is published.

        It is a line of JSON; behind it stands what was counted of the column.
        """
        name = ".".join(map(str, place))
        return f"{receipts_key(self.what)}/{wave}/{name}.json"

    def put_receipt(
        self, wave: int, receipt: Receipt, counts: NDArray[np.uint32] | None = None
    ) -> None:
        """Leave the receipt of a finished column, and what was counted of it."""
        data = json.dumps(receipt).encode() + b"\n"
        if counts is not None:
            data += imagecounts.packed(counts)
        # A receipt that a power cut loses is only work done twice; the shards themselves are safe.
        self.location.put(self.receipt_key(wave, place_of(receipt)), data, durable=False)

    def counts_of(self, place: Vox) -> NDArray[np.uint32] | None:
        """Return what was counted of a finished column, None where its receipt does not say."""
        data = self.location.get(self.receipt_key(0, place)) or b""
        return imagecounts.unpacked(data.partition(b"\n")[2])

    def receipts(self, wave: int) -> dict[Vox, Receipt]:
        """Return the receipts that an interrupted run left, of shards that are still there."""
        keys = self.location.keys(f"{receipts_key(self.what)}/{wave}")
        keys = [key for key in keys if key.endswith(".json")]
        # In a bucket far away, one after the other, these are hours; on a disk threads only hinder.
        with ThreadPoolExecutor(LOOKS) as pool:
            found = (pool.map if "://" in self.location.url else map)(self._kept, keys)
            return {place_of(receipt): receipt for receipt in found if receipt is not None}

    def _kept(self, key: str) -> Receipt | None:
        """Return a receipt, None where a shard of it is not there as it says."""
        data = self.location.get(key) or b""
        try:
            receipt: Receipt = json.loads(data.partition(b"\n")[0])
        except ValueError:  # a power cut left only a part of it
            return None
        sizes = [(s["n_bytes"], self.location.size(s["key"]) or 0) for s in receipt["shards"]]
        return receipt if sizes and all(a == b for a, b in sizes) else None

    def counts(self, wave: int) -> bool:
        """Whether columns of a wave are counted."""
        return self.counted and wave == 0

    def reader(self, level: Level) -> ArrayReader:
        """Return a reader of what has been written."""
        return ArrayReader(
            self.location, self.path(level), level.grid.shape, level.chunk, level.shard, self.dtype
        )


@dataclass(frozen=True)
class Halved:
    """The last level of a wave, halved: the source of the next wave."""

    target: Target
    fine: Level
    level: Level

    @property
    def grid(self) -> Grid:
        return self.level.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.target.dtype

    @property
    def unit(self) -> Vox:
        z, y, x = (max(1, c // 2) for c in self.fine.chunk)
        return z, y, x

    @property
    def provenance(self) -> dict[str, Any]:
        return {"kind": "level", "level": self.fine.index}

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        source = self.target.reader(self.fine)
        (z0, y0, x0), (nz, ny, nx) = start, out.shape
        z1, y1, x1 = z0 + nz, y0 + ny, x0 + nx
        wanted = Extent(start, (z1, y1, x1))
        # Twice the box, as far as the finer level goes.
        fine = Extent((2 * z0, 2 * y0, 2 * x0), (2 * z1, 2 * y1, 2 * x1)).intersect(
            self.fine.grid.extent
        )
        out[...] = 0
        for shard, places in source.by_shard(fine):
            for place in places:
                chunk = shard.get(place)
                if chunk is None:
                    continue
                have = source.chunk_extent(place)
                half = scratch.array("half", have.level(1).shape, self.dtype)
                valid = chunk[tuple(slice(0, n) for n in have.shape)]
                self.target.halving.halve(valid, half, self.fine.index, have.start)
                both = have.level(1).intersect(wanted)
                z, y, x = have.level(1).start
                out[both.shift((-start[0], -start[1], -start[2])).slices] = half[
                    both.shift((-z, -y, -x)).slices
                ]


def halved_reader(target: Target, levels: Sequence[Level], wave: int) -> Reader:
    """Return the source of a wave after the first."""
    first = next(level for level in levels if level.wave == wave)
    return Halved(target, levels[first.index - 1], first)


def place_of(receipt: Receipt) -> Vox:
    """Return which column a receipt is of."""
    z, y, x = receipt["place"]
    return z, y, x
