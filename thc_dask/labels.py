"""Bring a label set into a store: write its pyramid, then put it in its place."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thc_dask import schedule
from thc_dask.convert import MEMORY_BYTES, run_waves
from thc_dask.errors import ExistsError, RequestError
from thc_dask.grid import AXES, Extent, Vox, disjoint
from thc_dask.origin import (
    check_complete,
    flipped,
    inmost,
    is_reordered,
    is_same_place,
    is_within,
    orientation_of,
    places_of,
    reordered,
    seen_of,
)
from thc_dask.placement import Added, Laid, Placed, offset_of, place, turn_of, turned
from thc_dask.progress import Progress
from thc_dask.reader import Reader
from thc_dask.schemes import Scheme, find_scheme
from thc_dask.sources import open_reader
from thc_dask.store import sight
from thc_dask.store.books import book_key, receipts_key
from thc_dask.store.halving import ModeOfKnown
from thc_dask.store.publish import claim_labels, clear_receipts, sweep, write_nodes_of_labels
from thc_dask.store.read import LabelSet, Store, open_volume, store_of
from thc_dask.store.root import add_nodes
from thc_dask.store.shards import Codec
from thc_dask.store.staging import Staged, tidy
from thc_dask.store.target import Receipt, Target
from thc_dask.store.write import plan_waves
from thc_dask.views import reorder

if TYPE_CHECKING:
    import xarray as xr

    from thc_dask.sources.omezarr.labels import Described


DEFAULT_NAMES = {"region": "roi", "structure": "microstructure"}
LONGEST_NAME = 64  # the file names of tables hold two, and file systems end at 255


def write_labels(
    source: Any,
    store: Any,
    name: str | None = None,
    scheme: str | Scheme | None = None,
    *,
    planes: Sequence[int] | None = None,
    extents: Sequence[Extent] | None = None,
    offset: Vox | None = None,
    order: str | None = None,
    flip: str | None = None,
    into: str | None = None,
    codec: str = "zstd",
    memory_bytes: int = MEMORY_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> LabelSet:
    """Write a label set as ``labels`` does and return it."""
    location = store_of(store).location
    with location.lock():
        completed = tidy(location)
        # Not before: until the lock is ours another process may change what the root says.
        opened = Store(location)
        old = None if into is None else opened.label_set(into)
        said = _said(source)
        rules = _rules(name, scheme or (said.scheme if old is None else None), old)
        name = into or checked_name(name or DEFAULT_NAMES[rules.kind])
        again = completed == f"labels/{name}"
        if old is None:
            check_free(opened, name, overwrite or again)
        called = _called(source)
        reader = open_reader(source, opened.grid.spacing_um, order)
        if order is None and flip is None:
            reader = turned(reader, opened, called)
            order, flip = turn_of(reader, opened, called)
            if order is not None:
                reader = open_reader(source, opened.grid.spacing_um, order)
        check_complete(reader)
        if old is None:
            _check_apart(reader, opened, name, called)
        reader = reorder(reader, flip=flip or "")
        if reader.dtype.kind not in "bui":
            raise RequestError(
                f"labels {called}: voxels are {reader.dtype.name}; labels are whole numbers"
            )
        own = planes is None and extents is None and offset is None
        if own:
            extents = _known_at_source(source, reader, rules)
            offset = _own_place(source, reader, opened, order, flip, called)
            if extents is None and said.extents is not None:
                known = (reordered(e, order or "zyx") for e in said.extents)
                extents = [flipped(e, reader.grid.shape, flip or "") for e in known]
            if extents is not None:
                extents = [e.shift(offset or (0, 0, 0)) for e in extents]
        dtype = np.dtype(np.uint8 if rules.codes[-1] < 256 else np.uint16)
        # Labels of all of a source of which the volume shows a part.
        clip = own and opened.thc["provenance"]["kind"] == "cropped"
        pieces = place(reader.grid.shape, opened.grid.shape, offset, planes, extents, called, clip)
        new = Placed(reader, opened.grid, dtype, rules, pieces, called)
        if again:
            # What is asked for may be just what had broken off, and is complete now.
            if _is_done(opened.label_set(name), new, old):
                return opened.label_set(name)
            if old is None:
                check_free(opened, name, overwrite)
        return bring_in(opened, name, new, old, codec, memory_bytes, progress)


def _rules(name: str | None, scheme: str | Scheme | None, old: LabelSet | None) -> Scheme:
    """Return what the codes mean: as is asked for, or as the set that is added to says."""
    found = scheme if isinstance(scheme, Scheme) else find_scheme(scheme) if scheme else None
    if old is None:
        if found is None:
            raise RequestError(f"label set {name!r}: say what the codes mean with --scheme")
        return found
    if found is not None and found != old.scheme:
        raise RequestError(
            f"label set {old.name!r} has scheme {old.scheme.name!r}, not {found.name!r}"
        )
    return old.scheme


def checked_name(name: str) -> str:
    """Return a name that a label set may have; RequestError says what is wrong with others."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9_-]*", name):
        raise RequestError(f"label set name {name!r}: letters, digits, _ and -, a letter first")
    if len(name) > LONGEST_NAME:
        raise RequestError(f"label set name {name!r}: at most {LONGEST_NAME} letters and digits")
    if name in AXES:  # the coordinates of its levels lie beside it
        raise RequestError(f"label set name {name!r}: z, y and x are kept for coordinates")
    if name == "image" or "_by_" in name:
        # Tables are named after what they count: image by roi is `roi`, else a `_by_` between.
        raise RequestError(f"label set name {name!r}: 'image' and '_by_' are kept for tables")
    return name


def check_free(store: Store, name: str, overwrite: bool) -> None:
    """Raise ExistsError where a label set has that name and is not to be replaced."""
    if name in store.label_sets and not overwrite:
        raise ExistsError(
            f"{store.url} has a label set {name!r}; give --overwrite to replace it, or, to add "
            f"planes, thc labels --into {name}"
        )


def _is_done(labels: LabelSet, new: Placed, old: LabelSet | None) -> bool:
    """Whether a label set is what bringing in ``new`` would make it."""
    made = labels.thc["provenance"]
    same = bool(made[-1] == json.loads(json.dumps(new.provenance)))
    return same and labels.scheme == new.scheme and (old is not None or len(made) == 1)


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


def _said(source: Any) -> Described:
    """Return what labels say of themselves, where their format can."""
    from thc_dask.sources.omezarr.labels import Described, describe_labels

    if isinstance(source, str | os.PathLike):
        return describe_labels(os.fspath(source))
    return Described(None, None)


def _check_apart(reader: Reader, volume: Store, name: str, called: str) -> None:
    """Raise RequestError where a label set would be made of itself: what it was made of is lost."""
    own = f"{volume.url}/labels/{name}"
    if any(is_within(place, own) for place in places_of(reader)):
        raise RequestError(f"labels {called}: it would replace its own source; give another --name")


def _own_place(
    source: Any, reader: Reader, volume: Store, order: str | None, flip: str | None, called: str
) -> Vox | None:
    """Return where labels say they lie, if they and the volume speak of the same space.

    OME-Zarr and precomputed volumes always do; medical images where the volume was one, and their
    axes are the same; and what lies beside the volume's source. ``order`` and ``flip`` are what
    was done to the labels' axes.
    """
    image, points = volume.thc["provenance"], orientation_of(reader.provenance)
    beside = is_same_place(reader.provenance, image)
    if not beside and inmost(reader.provenance)["kind"] not in ("zarr", "precomputed"):
        # Axes that were turned round say no longer where their first voxel is.
        knows = points is not None and points == orientation_of(image)
        if not knows or is_reordered(image) or is_reordered(reader.provenance):
            return None
    try:
        own = open_reader(source, order=order).grid
    except RequestError:  # it knows no voxel size
        return None
    seen = seen_of(image)
    if own.shape != volume.grid.shape and seen is not None and set(flip or "") == set(seen.flip):
        first = offset_of(own, seen.grid(volume.grid), called) or (0, 0, 0)
        z, y, x = (a + n for a, n in zip(first, own.shape, strict=True))
        return seen.to_volume(Extent(first, (z, y, x))).start
    if flip and own.shape != volume.grid.shape:
        return None
    return offset_of(own, volume.grid, called)


def _called(source: Any) -> str:
    """Return what to call a source in an error: an array would print its voxels."""
    if isinstance(source, str | os.PathLike):
        return os.fspath(source)
    return str(getattr(source, "name", None) or type(source).__name__)


def bring_in(
    store: Store, name: str, new: Laid, old: LabelSet | None, codec: str, memory_bytes: int,
    progress: Progress | None,
) -> LabelSet:  # fmt: skip
    """Write labels that are laid into the volume; the caller holds the store's lock.

    ``old`` is the set that they are added to, None for one of their own.
    """
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
        claim_labels(target)
        store.location.delete(prefix)  # what a run that broke off left
    tasks = plan_waves(
        target, store.levels, reader, schedule.n_threads(), schedule.room(memory_bytes),
        [e for e, _ in new.pieces],
    )  # fmt: skip
    provenance = [*(old.thc["provenance"] if old else []), new.provenance]
    try:
        sight.exchange(store.location)
        receipts = run_waves(tasks, progress)
        if not schedule.is_local():
            sweep(store.location)
        merged = _merge(store, target, receipts) if old else receipts
        nodes = write_nodes_of_labels(
            target, store.levels, merged, new.scheme, known, provenance
        )  # fmt: skip
        if staged is None:
            add_nodes(store.location, store.root_bytes, nodes)
            clear_receipts(target)
        else:
            clear_receipts(target)
            staged.settle(store.root_bytes, prefix.rstrip("/"), nodes)
    except BaseException:
        if staged is not None:
            staged.discard()
        elif name not in Store(store.location).label_sets:
            # Last what says that the rest is ours.
            for key in (prefix, book_key(target.what), receipts_key(target.what)):
                store.location.delete(key)
        raise
    return Store(store.location).label_set(name)


def _merge(store: Store, target: Target, receipts: Sequence[Receipt]) -> list[Receipt]:
    """Return the receipts of all shards: the new ones, and the old ones of those left alone."""
    shards = store.book(target.what).sound(store.location)
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
    order: str | None = None,
    flip: str | None = None,
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
        What the codes mean: the name of a scheme, a file, or a ``Scheme``; None takes what
        OME-Zarr labels say of themselves.
    planes
        The z planes that are annotated, in voxels. A source with just that many planes is
        spread over them.
    extents
        Boxes of voxels inside which the labels are known. Outside them a voxel is *unknown* and
        counts nowhere; inside them 0 means *none of these*. By default all that the source covers.
    offset
        Where voxel (0, 0, 0) of a smaller source lies in the volume (z, y, x); OME-Zarr labels
        know it themselves.
    order, flip
        As ``convert`` takes them, for labels whose axes are not those of the volume: of a source
        that was reordered or flipped when it was converted. Labels in the same OME-Zarr as that
        source, or the same bossDB, and medical images need neither.
    into
        Add to this existing label set.
    overwrite
        Replace a label set of that name.
    progress
        Called with voxels done and voxels in all.

    Raises
    ------
    RequestError
        Labels of another shape, floats, codes outside the scheme, extents outside the source, a
        label set that is made of itself.

    Warns
    -----
    UserWarning
        The volume was flipped or reordered, and where these labels' axes point to is not known.
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
        source, store, name, scheme, planes=planes, extents=extents, offset=offset,
        order=order, flip=flip, into=into, overwrite=overwrite, progress=progress,
    )  # fmt: skip
    return open_volume(kept.store.url)
