"""Prove that a store is whole, byte by byte, and mend what is not."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.convert import MEMORY_BYTES, run_waves
from thc_dask.count import write_counts
from thc_dask.errors import DataError, RequestError
from thc_dask.grid import Extent, Grid, Vox, blocks
from thc_dask.interpolate import interpolation_of, remade
from thc_dask.origin import eight_bit, reopen
from thc_dask.placement import laid
from thc_dask.progress import Progress
from thc_dask.reader import Reader
from thc_dask.store import witness
from thc_dask.store.books import book_key, digest, in_order
from thc_dask.store.consistency import Problem
from thc_dask.store.halving import MeanOfVoxels, ModeOfKnown
from thc_dask.store.location import Location, locate
from thc_dask.store.publish import small_files, sweep
from thc_dask.store.read import Store
from thc_dask.store.root import ROOT, ROOT_COPY
from thc_dask.store.shards import ArrayReader, Codec
from thc_dask.store.staging import Staged, tidy
from thc_dask.store.target import Target
from thc_dask.store.write import Wave, plan_waves

if TYPE_CHECKING:
    import xarray as xr


SPOT_CHECKS = 8  # of each level but the finest, of the image and of every label set


def verify(
    volume: str | os.PathLike[str] | xr.DataTree,
    *,
    repair: bool = False,
    source: Any = None,
    spot_checks: int = SPOT_CHECKS,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Compare every byte of a store with its witnesses; say, and if asked mend, what differs.

    Checksums prove that nothing changed. That it was written right is asked besides: metadata are
    held against the shards and coordinates, and at drawn places each level against the finer one.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    repair
        Make damaged and missing files anew: shards from the finer level or the source, metadata
        from the root, tables by counting; complete what was cut off and remove what it left over.
        A shard made anew is taken only if it is what its receipt says. Files that do not belong to
        the store are left alone, and so is what is wrong though its checksum is right.
    source
        The image's source, if it is no longer where it was.
    spot_checks
        How many places of each level, of the image and of every label set, are made again from the
        finer level: boxes of up to 32 voxels a side, the far corner first.
    seed
        Another one draws other places.
    progress
        Called with files done and files in all.

    Returns
    -------
    dict
        Ready for JSON: ``whole`` (whether nothing is wrong now), ``n_files`` and ``n_bytes``
        compared, ``problems`` (``key``, ``what`` and ``why`` each), ``mended`` (keys),
        ``left_over`` (keys that processes which were cut off have left) and ``unknown`` (keys of
        files that do not belong to the store); the last two do not make it less whole.

    Raises
    ------
    DataError
        The store cannot be opened at all, was changed while it was verified, or a repair did not
        give the bytes it should have.
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
    if spot_checks < 0:
        raise RequestError(f"spot checks {spot_checks}: give 0 or more")
    store = witness.open_whole(location)
    if not repair:
        found = _prove(store, progress, spot_checks, seed)
        return _facts(store, found, [])
    with location.lock():
        # Not before: until the lock is ours another process may change the store.
        store = witness.open_whole(location)
        found = _prove(store, progress, spot_checks, seed)
        mendable = [p for p in found if p.what in ("missing", "truncated", "damaged")]
        _mend(location, store, mendable, source, found)
        swept = [p for p in found if p.what in ("unfinished", "left over")]
        if swept:
            tidy(location, alone=True)
            sweep(location)
    for path in _broken_tables(store, mendable):
        rows = store.nodes[f"{path}/plane"]["attributes"]["rows"]
        columns = store.nodes[f"{path}/plane"]["attributes"]["columns"]
        names = [n for n in (rows, columns) if n != "image"]
        write_counts(location.url, names or ["image"])
    if not mendable and not swept:
        return _facts(store, found, [])
    store = witness.open_whole(location)
    left = _prove(store, None, spot_checks, seed)
    wrong = {p.key for p in found if p.what not in ASIDE}
    return _facts(store, left, sorted(wrong - {p.key for p in left if p.what not in ASIDE}))


ASIDE = ("left over", "unknown")  # what is not part of the store


def _prove(store: Store, progress: Progress | None, spot_checks: int, seed: int) -> list[Problem]:
    before = store.location.get(ROOT)
    found = list(witness.problems(store, progress, spot_checks, seed))
    if store.location.get(ROOT) != before:
        raise DataError(
            f"{store.url} was changed by another process while it was verified; verify it again"
        )
    return found


def _facts(store: Store, found: Sequence[Problem], mended: Sequence[str]) -> dict[str, Any]:
    wrong = [p for p in found if p.what not in ASIDE]
    n_files, n_bytes = witness.extent_of_proof(store)
    return {
        "store": store.url,
        "whole": not wrong,
        "n_files": n_files,
        "n_bytes": n_bytes,
        "problems": [asdict(p) for p in wrong],
        "mended": list(mended),
        "left_over": [p.key for p in found if p.what == "left over"],
        "unknown": [p.key for p in found if p.what == "unknown"],
    }


def _location(volume: Any) -> Location:
    if isinstance(volume, str | os.PathLike):
        return locate(volume)
    url = getattr(volume, "attrs", {}).get("store")
    if url is None:
        raise RequestError(f"{type(volume).__name__} is not a volume: give a path or open_volume's")
    return locate(url)


def _mend(
    location: Location, store: Store, broken: Sequence[Problem], source: Any,
    found: Sequence[Problem],
) -> None:  # fmt: skip
    """Write anew what is broken, but for the tables."""
    small = small_files(store.root, store.levels)
    # A root that contradicts its arrays must not replace a copy that may not.
    if not any(p.key == ROOT and p.what == "wrong" for p in found):
        small |= dict.fromkeys((ROOT_COPY, ROOT), store.root_bytes)
    keys = {p.key for p in broken}
    for key in sorted(keys & set(small), key=lambda k: (k == ROOT, k)):
        location.put(key, small[key])
    for name in (None, *store.label_sets):
        what = "image" if name is None else f"labels/{name}"
        prefix, own = ("", what) if name is None else (f"{what}/", name)
        shards = {k for k in keys if k.startswith(prefix) and f"/{own}/c/" in f"/{k}"}
        if name is None:
            shards = {k for k in shards if k.split("/")[0].isdigit()}
        if store.book(what).key in keys:
            _write_receipts(location, store, name)
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
    """Make the columns anew that hold a broken shard, finest wave first.

    They lie aside until they have proved to be what was there: nothing is replaced by less.
    """
    staged = Staged(location, afresh=False)
    target = _target(staged, store, name)
    finest = f"{target.path(store.levels[0])}/c/"
    broken_finest = any(key.startswith(finest) for key in keys)
    try:
        with ExitStack() as open_:
            reader: Reader = _Finest(target.reader(store.levels[0]), store.grid)
            if broken_finest:
                reader = open_.enter_context(_source(store, name, source))
            _write_anew(target, store, reader, keys)
        receipts, _ = store.book(target.what).read(location)
        for key in sorted(keys):
            if witness.take_stock(store, staged, key) != receipts.get(key):
                raise DataError(
                    f"{location.url}/{key}: made anew it is not what was there, so it was left as "
                    "it is; the source has changed, or its finer level is wrong: convert again"
                )
        for key in sorted(keys):
            staged.release(key)
    finally:
        staged.discard()


def _write_anew(target: Target, store: Store, reader: Reader, keys: set[str]) -> None:
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


def _source(store: Store, name: str | None, source: Any) -> AbstractContextManager[Reader]:
    if name is None:
        reader = reopen(store.thc["provenance"], source)
        return nullcontext(eight_bit(reader, store.thc["normalisation"]))
    labels = store.label_set(name)
    return nullcontext(laid(labels)) if interpolation_of(labels) is None else remade(labels)


def _write_receipts(location: Location, store: Store, name: str | None) -> None:
    """Take stock of a pyramid's shards again, and keep that only if it comes to the digest."""
    target = _target(location, store, name)
    found = [
        witness.take_stock(store, location, key)
        for level in store.levels
        for key in location.keys(f"{target.path(level)}/c")
    ]
    book = store.book(target.what)
    if digest(found, book.meaning) != book.digest:
        raise DataError(
            f"{location.url}/{book.key}: the receipts are damaged and the shards are not all as "
            "they were; what is broken cannot be told: convert or label again"
        )
    location.put(book.key, in_order(found))


def _broken_tables(store: Store, wrong: Sequence[Problem]) -> list[str]:
    """Return the groups of tables that hold a broken file."""
    tables = {p.rsplit("/", 1)[0] for p in store.nodes if p.split("/")[2:] == ["plane"]}
    keys = [p.key for p in wrong]
    return sorted(t for t in tables if any(k.startswith((f"{t}/", book_key(t))) for k in keys))
