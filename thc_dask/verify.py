"""Prove that a store is whole, byte by byte, and mend what is not."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.convert import MEMORY_BYTES, run_waves
from thc_dask.count import write_counts
from thc_dask.errors import DataError, RequestError
from thc_dask.grid import Extent, Grid, Vox, blocks
from thc_dask.labels import laid
from thc_dask.origin import eight_bit, reopen
from thc_dask.reader import Reader
from thc_dask.store import witness
from thc_dask.store.location import Location, locate
from thc_dask.store.publish import ROOT, ROOT_COPY, sealed, small_files
from thc_dask.store.read import Store
from thc_dask.store.shards import ArrayReader, Codec
from thc_dask.store.witness import Problem
from thc_dask.store.write import (
    RECEIPTS,
    MeanOfVoxels,
    ModeOfKnown,
    Progress,
    Target,
    Wave,
    plan_waves,
)

if TYPE_CHECKING:
    import xarray as xr


def verify(
    volume: str | os.PathLike[str] | xr.DataTree,
    *,
    repair: bool = False,
    source: Any = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare every byte of a store with its witnesses; say, and if asked mend, what differs.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    repair
        Make damaged and missing files anew: shards from the finer level or the source, metadata
        from the root, tables by counting. Files that do not belong to the store are left alone.
    source
        The image's source, if it is no longer where it was.
    progress
        Called with files done and files in all.

    Returns
    -------
    dict
        Ready for JSON: ``whole`` (whether nothing is wrong now), ``n_files`` and ``n_bytes``
        compared, ``problems`` (``key`` and ``what`` each), ``mended`` (keys), ``unknown`` (keys
        of files that do not belong to the store; they do not make it less whole).

    Raises
    ------
    DataError
        The store cannot be opened at all, or a repair did not give the bytes it should have.
    MissingError, UnfinishedError, RequestError
        As ``open_volume`` does; also where a source that a repair needs is gone or has changed.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert
    >>> verify(convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr"))["whole"]
    True
    """
    location = _location(volume)
    store = witness.open_whole(location)
    found = list(witness.problems(store, progress))
    wrong = [p for p in found if p.what != "unknown"]
    mended: list[str] = []
    if repair and wrong:
        with location.lock():
            _mend(location, store, wrong, source)
        for path in _broken_tables(store, wrong):
            rows = store.nodes[f"{path}/plane"]["attributes"]["rows"]
            columns = store.nodes[f"{path}/plane"]["attributes"]["columns"]
            write_counts(location.url, [n for n in (rows, columns) if n != "image"])
        store = witness.open_whole(location)
        left = [p for p in witness.problems(store) if p.what != "unknown"]
        mended = sorted({p.key for p in wrong} - {p.key for p in left})
        wrong = left
    n_files, n_bytes = witness.extent_of_proof(store)
    return {
        "store": location.url,
        "whole": not wrong,
        "n_files": n_files,
        "n_bytes": n_bytes,
        "problems": [asdict(p) for p in wrong],
        "mended": mended,
        "unknown": [p.key for p in found if p.what == "unknown"],
    }


def _location(volume: Any) -> Location:
    if isinstance(volume, str | os.PathLike):
        return locate(volume)
    url = getattr(volume, "attrs", {}).get("store")
    if url is None:
        raise RequestError(f"{type(volume).__name__} is not a volume: give a path or open_volume's")
    return locate(url)


def _mend(location: Location, store: Store, wrong: Sequence[Problem], source: Any) -> None:
    """Write anew what is wrong, but for the tables."""
    small = small_files(store.root, store.levels)
    small |= dict.fromkeys((ROOT_COPY, ROOT), sealed(store.root))
    keys = {p.key for p in wrong}
    for key in sorted(keys & set(small), key=lambda k: (k == ROOT, k)):
        location.put(key, small[key])
    for name in (None, *store.label_sets):
        prefix = "" if name is None else f"labels/{name}/"
        own = name or "image"
        shards = {k for k in keys if k.startswith(prefix) and f"/{own}/c/" in f"/{k}"}
        if name is None:
            shards = {k for k in shards if k.split("/")[0].isdigit()}
        book = f"{RECEIPTS}/{prefix}{own}.jsonl"
        if book in keys:
            _write_receipts(location, store, name, book)
        if shards:
            _mend_pyramid(location, store, name, shards, source)


def _target(location: Location, store: Store, name: str | None) -> Target:
    if name is None:
        dtype = store.image().dtype
        return Target(location, "", "image", dtype, Codec.parse(store.thc["codec"]), MeanOfVoxels())
    labels = store.label_set(name)
    halving = ModeOfKnown(tuple(labels.extents))
    codec = Codec.parse(labels.thc["codec"])
    return Target(location, f"labels/{name}/", name, labels.array().dtype, codec, halving)


@dataclass(frozen=True)
class _Finest:
    """The finest level of a pyramid as a source for the coarser ones."""

    array: ArrayReader
    grid: Grid

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.array.dtype

    @property
    def unit(self) -> Vox:
        return self.array.unit

    @property
    def provenance(self) -> dict[str, Any]:
        return {"kind": "level", "level": 0}

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        self.array.read_into(out, start)


def _mend_pyramid(
    location: Location, store: Store, name: str | None, keys: set[str], source: Any
) -> None:
    """Make the columns anew that hold a broken shard, finest wave first."""
    target = _target(location, store, name)
    finest = f"{target.path(store.levels[0])}/c/"
    broken_finest = any(key.startswith(finest) for key in keys)
    reader: Reader = _Finest(target.reader(store.levels[0]), store.grid)
    if broken_finest:
        reader = _source(store, name, source)
    tasks = plan_waves(target, store.levels, reader, schedule.n_threads(), MEMORY_BYTES)
    for wave, boxes in tasks:
        places = {
            place
            for level in wave.levels
            for key in keys
            if (place := _place(key, f"{target.path(level)}/c/")) is not None
        }
        if places:
            rest = _only(wave, boxes, places)
            run_waves([(rest, rest.missing(boxes))])
    location.delete(f"{RECEIPTS}/{target.prefix}{target.name}")


def _place(key: str, top: str) -> Vox | None:
    if not key.startswith(top):
        return None
    z, y, x = (int(part) for part in key.removeprefix(top).split("/"))
    return z, y, x


def _only(wave: Wave, boxes: Sequence[Extent], places: set[Vox]) -> Wave:
    """Return the wave with all columns done but those at ``places``."""
    first = wave.levels[0]
    every = {
        first.shard_place(e.shift(box.start))
        for box in boxes
        for e in blocks(box.shape, first.shard)
    }
    return replace(wave, done=frozenset(every - places))


def _source(store: Store, name: str | None, source: Any) -> Reader:
    if name is not None:
        return laid(store.label_set(name))
    return eight_bit(reopen(store.thc["provenance"], source), store.thc["normalisation"])


def _write_receipts(location: Location, store: Store, name: str | None, book: str) -> None:
    """Take stock of a pyramid's shards again, and keep that only if it comes to the digest."""
    target = _target(location, store, name)
    found = [
        witness.take_stock(location, key)
        for level in store.levels
        for key in location.keys(f"{target.path(level)}/c")
    ]
    wanted = next(b for b in witness.books(store) if b.key == book)
    if witness.digest(found, wanted.meaning) != wanted.digest:
        raise DataError(
            f"{location.url}/{book}: the receipts are damaged and the shards are not all as they "
            "were; what is broken cannot be told: convert or label again"
        )
    lines = sorted(f"{json.dumps(receipt)}\n" for receipt in found)
    location.put(book, "".join(lines).encode())


def _broken_tables(store: Store, wrong: Sequence[Problem]) -> list[str]:
    """Return the groups of tables that hold a broken file."""
    tables = {p.rsplit("/", 1)[0] for p in store.nodes if p.split("/")[2:] == ["plane"]}
    keys = [p.key.removeprefix(f"{RECEIPTS}/") for p in wrong]
    return sorted(t for t in tables if any(k.startswith((f"{t}/", f"{t}.jsonl")) for k in keys))
