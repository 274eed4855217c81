"""Bring a label set into a store: where it lies, what is known, and its pyramid."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import schedule
from thc_dask.convert import MEMORY_BYTES, run_waves
from thc_dask.errors import DataError, ExistsError, RequestError
from thc_dask.grid import Extent, Grid, Vox, disjoint
from thc_dask.origin import reopen
from thc_dask.reader import Reader
from thc_dask.schemes import Scheme, find_scheme
from thc_dask.sources import open_reader
from thc_dask.store.publish import ROOT, publish_labels, remove_nodes, without
from thc_dask.store.read import LabelSet, Store, open_volume, store_of
from thc_dask.store.shards import ArrayReader, Codec
from thc_dask.store.staging import Staged
from thc_dask.store.write import RECEIPTS, ModeOfKnown, Progress, Receipt, Target, plan_waves

if TYPE_CHECKING:
    import xarray as xr


DEFAULT_NAMES = {"region": "roi", "structure": "microstructure"}


@dataclass(frozen=True)
class Placed:
    """Labels of a source laid into the volume; zero where they are not known."""

    source: Reader
    grid: Grid
    """The volume's."""
    dtype: np.dtype[Any]
    """Type in the store: the smallest that holds the scheme."""
    scheme: Scheme
    pieces: tuple[tuple[Extent, Vox], ...]
    """Known boxes of the volume, each with what to add to get to voxels of the source."""
    name: str
    """What to call the source in an error."""

    @property
    def unit(self) -> Vox:
        return self.source.unit

    @property
    def provenance(self) -> dict[str, Any]:
        pieces = [[list(e.start), list(e.stop), list(shift)] for e, shift in self.pieces]
        return {**self.source.provenance, "pieces": pieces}

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        z, y, x = start
        here = Extent(start, (z + out.shape[0], y + out.shape[1], x + out.shape[2]))
        out[...] = 0
        for extent, shift in self.pieces:
            both = extent.intersect(here)
            if both.n_vox:
                values = np.empty(both.shape, self.source.dtype)
                self.source.read_into(values, both.shift(shift).start)
                out[both.shift((-z, -y, -x)).slices] = self._checked(values, both)

    def _checked(self, values: NDArray[Any], where: Extent) -> NDArray[Any]:
        """Return the codes in the store's type, after a look at each."""
        low, high = int(values.min()), int(values.max())
        if low >= 0 and high <= int(self.scheme.codes[-1]):
            codes = values.astype(self.dtype)
            known = self.scheme.row_of_code(self.dtype) < len(self.scheme.labels)
            if known[codes].all():
                return codes
        odd = ~np.isin(values, self.scheme.codes)
        place = np.argwhere(odd)[0]
        z, y, x = (int(a + b) for a, b in zip(place, where.start, strict=True))
        codes_known = ", ".join(map(str, self.scheme.codes))
        raise RequestError(
            f"labels {self.name}: code {values[tuple(place)]} at voxel z={z} y={y} x={x} is not in "
            f"scheme {self.scheme.name!r} (codes {codes_known}); choose another --scheme"
        )


@dataclass(frozen=True)
class Added:
    """What a label set already holds, with more known voxels laid over it."""

    have: ArrayReader | Placed | Added
    more: Placed

    @property
    def grid(self) -> Grid:
        return self.more.grid

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.have.dtype

    @property
    def unit(self) -> Vox:
        return self.have.unit

    @property
    def provenance(self) -> dict[str, Any]:
        return self.more.provenance

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        self.have.read_into(out, start)
        fresh = np.empty(out.shape, out.dtype)
        self.more.read_into(fresh, start)
        z, y, x = start
        here = Extent(start, (z + out.shape[0], y + out.shape[1], x + out.shape[2]))
        for extent, _ in self.more.pieces:
            where = extent.intersect(here).shift((-z, -y, -x)).slices
            out[where] = fresh[where]


def place(
    shape: Vox, volume: Vox, offset: Vox | None, planes: Sequence[int] | None,
    extents: Sequence[Extent] | None, name: str,
) -> tuple[tuple[Extent, Vox], ...]:  # fmt: skip
    """Return the known boxes of the volume, each with the shift to voxels of the source.

    A source of the volume's shape lies upon it; one with as many planes as ``planes`` names is
    spread over them; any other needs ``offset``.

    Raises
    ------
    RequestError
        The source does not fit, or a plane or extent is outside it.
    """
    spread = planes is not None and offset is None and shape[0] == len(planes) != volume[0]
    if planes is not None and len(set(planes)) != len(planes):
        raise RequestError(f"planes {list(planes)}: one is named twice")
    if planes is not None and not all(0 <= p < volume[0] for p in planes):
        raise RequestError(f"planes {list(planes)}: the volume has planes 0 to {volume[0] - 1}")
    if spread and planes is not None and shape[1:] == volume[1:]:
        full = [
            (Extent((p, 0, 0), (p + 1, *volume[1:])), (i - p, 0, 0)) for i, p in enumerate(planes)
        ]
    else:
        o = offset or (0, 0, 0)
        stop = (o[0] + shape[0], o[1] + shape[1], o[2] + shape[2])
        inside = Extent((0, 0, 0), volume).contains(Extent(o, stop))
        if (offset is None and shape != volume) or not inside:
            raise RequestError(
                f"labels {name}: shape {shape} does not fit the volume {volume} (z,y,x)"
                + (f" at offset {offset}" if offset else "; give --offset z,y,x, or --planes")
            )
        whole = Extent(o, stop)
        boxes = [Extent((p, *o[1:]), (p + 1, *stop[1:])) for p in planes] if planes else [whole]
        full = [(box.intersect(whole), (-o[0], -o[1], -o[2])) for box in boxes]
    pieces = [
        (both, shift)
        for extent in (disjoint(extents) if extents else [Extent((0, 0, 0), volume)])
        for box, shift in full
        if (both := extent.intersect(box)).n_vox
    ]
    n_wanted = sum(e.n_vox for e in disjoint(extents)) if extents else 0
    if not pieces or (extents and not planes and sum(b.n_vox for b, _ in pieces) != n_wanted):
        named = "; ".join(map(str, extents or [])) or f"planes {list(planes or [])}"
        raise RequestError(
            f"labels {name}: {named} reaches outside what the file covers, "
            f"{'; '.join(str(b) for b, _ in full[:3])} (z,y,x voxels)"
        )
    return tuple(pieces)


def write_labels(
    source: Any,
    store: Any,
    name: str | None = None,
    scheme: str | Scheme | None = None,
    *,
    planes: Sequence[int] | None = None,
    extents: Sequence[Extent] | None = None,
    offset: Vox | None = None,
    into: str | None = None,
    codec: str = "zstd",
    memory_bytes: int = MEMORY_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> LabelSet:
    """Write a label set as ``labels`` does and return it."""
    opened = store_of(store)
    old = None if into is None else opened.label_set(into)
    found = scheme if isinstance(scheme, Scheme) else find_scheme(scheme) if scheme else None
    if old is None and found is None:
        raise RequestError(f"label set {name!r}: say what the codes mean with --scheme")
    if old is not None and found is not None and found != old.scheme:
        raise RequestError(f"label set {into!r} has scheme {old.scheme.name!r}, not {found.name!r}")
    rules = old.scheme if old is not None else found
    assert rules is not None
    name = into or name or DEFAULT_NAMES[rules.kind]
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise RequestError(f"label set name {name!r}: letters, digits, _ and -, a letter first")
    if name == "image" or "_by_" in name:
        # Tables are named after what they count: image by roi is `roi`, else a `_by_` between.
        raise RequestError(f"label set name {name!r}: 'image' and '_by_' are kept for tables")
    if old is None and name in opened.label_sets and not overwrite:
        raise ExistsError(
            f"{opened.url} has a label set {name!r}; give --overwrite to replace it, or "
            f"--into {name} to add to it"
        )
    reader, called = open_reader(source, opened.grid.spacing_um), _called(source)
    if reader.dtype.kind not in "bui":
        raise RequestError(
            f"labels {called}: voxels are {reader.dtype.name}; labels are whole numbers"
        )
    if planes is None and extents is None and offset is None:
        extents = _known_at_source(source, reader, rules)
    dtype = np.dtype(np.uint8 if rules.codes[-1] < 256 else np.uint16)
    pieces = place(reader.grid.shape, opened.grid.shape, offset, planes, extents, called)
    new = Placed(reader, opened.grid, dtype, rules, pieces, called)
    with opened.location.lock():
        return _write(opened, name, new, old, codec, memory_bytes, progress)


def _known_at_source(source: Any, reader: Reader, scheme: Scheme) -> list[Extent] | None:
    """Return what is annotated of a published channel, found by reading; None for other sources.

    Warns where that contradicts what the channel's authors say.
    """
    from thc_dask.catalogue import find_channel

    channel = find_channel(source) if isinstance(source, str) else None
    if channel is None or not channel.claims:
        return None
    from thc_dask.sources.bossdb import annotated_extents

    return annotated_extents(reader, scheme=scheme.name)


def _called(source: Any) -> str:
    """Return what to call a source in an error: an array would print its voxels."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", None) or type(source).__name__)


def _write(
    store: Store, name: str, new: Placed, old: LabelSet | None, codec: str, memory_bytes: int,
    progress: Progress | None,
) -> LabelSet:  # fmt: skip
    boxes = disjoint(extent for extent, _ in new.pieces)
    known = [*(old.extents if old else []), *boxes]
    if old is not None and any(a.intersect(b).n_vox for a in old.extents for b in boxes):
        raise RequestError(
            f"label set {name!r}: a part of it is known already; nothing was changed"
        )
    codec_of = Codec.parse(old.thc["codec"] if old else codec)
    prefix = f"labels/{name}/"
    # What is added to or replaced stays whole, and in use, until all that is new is there.
    staged = Staged(store.location, afresh=old is None) if name in store.label_sets else None
    target = Target(
        staged or store.location, prefix, name, new.dtype, codec_of, ModeOfKnown(tuple(known)),
        replaces=old is not None,
    )  # fmt: skip
    reader: Reader = new if old is None else Added(old.array(), new)
    if staged is None:
        store.location.delete(prefix)  # what a run that broke off left
    tasks = plan_waves(
        target, store.levels, reader, schedule.n_threads(), memory_bytes, [e for e, _ in new.pieces]
    )
    provenance = [*(old.thc["provenance"] if old else []), new.provenance]
    try:
        receipts = run_waves(tasks, progress)
        merged = _merge(store, target, receipts) if old else receipts
        root = store.root if staged is None else without(store.root, prefix.rstrip("/"))
        publish_labels(target, store.levels, merged, root, new.scheme, known, provenance)
        if staged is not None:
            _settle(store, name, staged, afresh=old is None)
    except BaseException:
        if staged is not None:
            staged.discard()
        elif name not in Store(store.location).label_sets:
            for key in (prefix, f"{RECEIPTS}/{prefix}{name}", f"{RECEIPTS}/{prefix}{name}.jsonl"):
                store.location.delete(key)
        raise
    return Store(store.location).label_set(name)


def _settle(store: Store, name: str, staged: Staged, afresh: bool) -> None:
    """Put a label set in the place of the one before; nobody finds a mix of both."""
    remove_nodes(store.location, store.root, f"labels/{name}")
    if afresh:
        store.location.delete(f"labels/{name}")
    staged.settle(last=ROOT)


def laid(labels: LabelSet) -> Placed | Added:
    """Return a reader of a label set's own sources, opened again and laid as they were.

    Raises
    ------
    RequestError
        A source is gone, has changed, or was an array in memory.
    """
    grid, dtype = labels.store.grid, labels.array().dtype
    found: Placed | Added | None = None
    for entry in labels.thc["provenance"]:
        source = reopen({k: v for k, v in entry.items() if k != "pieces"})
        pieces = tuple(
            (Extent(tuple(start), tuple(stop)), tuple(shift))
            for start, stop, shift in entry["pieces"]
        )
        part = Placed(source, grid, dtype, labels.scheme, pieces, str(entry.get("location")))
        found = part if found is None else Added(found, part)
    assert found is not None
    return found


def _merge(store: Store, target: Target, receipts: Sequence[Receipt]) -> list[Receipt]:
    """Return the receipts of all shards: the new ones, and the old ones of those left alone."""
    key = f"{RECEIPTS}/{target.prefix}{target.name}.jsonl"
    data = store.location.get(key)
    if data is None:
        raise DataError(f"{store.url}/{key} is missing; run thc verify")
    shards = {s["key"]: s for s in map(json.loads, data.decode().splitlines())}
    shards |= {s["key"]: s for r in receipts for s in r["shards"]}
    return [{"shards": list(shards.values())}]


def labels(
    source: Any,
    store: str | os.PathLike[str] | xr.DataTree,
    name: str | None = None,
    scheme: str | Scheme | None = None,
    *,
    planes: Sequence[int] | None = None,
    extents: Sequence[Extent] | None = None,
    offset: Vox | None = None,
    into: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Bring a label set into a store and return the store, opened again.

    Parameters
    ----------
    source
        Labels as whole numbers: what ``convert`` takes.
    store
        Path, URL or opened volume.
    name
        Name of the label set; by default ``roi`` for regions, ``microstructure`` for structures.
    scheme
        What the codes mean: the name of a scheme, a file, or a ``Scheme``.
    planes
        The z planes that are annotated, in voxels. A source with just that many planes is
        spread over them.
    extents
        Boxes of voxels inside which the labels are known. Outside them a voxel is *unknown* and
        counts nowhere; inside them 0 means *none of these*. By default all that the source covers.
    offset
        Where voxel (0, 0, 0) of a smaller source lies in the volume (z, y, x).
    into
        Add to this existing label set.
    overwrite
        Replace a label set of that name.
    progress
        Called with voxels done and voxels in all.

    Raises
    ------
    RequestError
        Labels of another shape, floats, codes outside the scheme, extents outside the source.
    ExistsError
        The label set exists.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> source = "phantom:32,64,96?channel=roi"
    >>> volume = labels(source, volume, "roi", "prasad2020-roi", planes=[8, 16])
    >>> volume["labels/roi/0/roi"].dtype
    dtype('uint8')
    """
    kept = write_labels(
        source, store, name, scheme, planes=planes, extents=extents, offset=offset, into=into,
        overwrite=overwrite, progress=progress,
    )  # fmt: skip
    return open_volume(kept.store.url)
