"""Fill a label set between its annotated planes, by shape, and say how well that does."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import __version__
from thc_dask.errors import RequestError
from thc_dask.filling import TILE, Between, between
from thc_dask.labels import MEMORY_BYTES, bring_in, check_free, checked_name
from thc_dask.progress import Progress
from thc_dask.store.read import LabelSet, Store, open_volume, store_of
from thc_dask.store.staging import tidy

if TYPE_CHECKING:
    import xarray as xr

KIND = "interpolation"
METHOD = (
    "shape-based: linear in z between signed distances to the borders of every code on the two "
    "bracketing planes; the largest wins, of equals the smallest code; a code that only one of "
    f"them has is not extrapolated: columns of {TILE} voxels a side with it are unknown in between"
)
UP_TO_DATE = "up to date"


def interpolation_of(labels: LabelSet) -> dict[str, Any] | None:
    """Return the record of how a label set was interpolated, None of one that was not."""
    found = [entry for entry in labels.thc["provenance"] if entry.get("kind") == KIND]
    return found[0] if found else None


def state_of(labels: LabelSet) -> str:
    """Return whether an interpolated label set is still what its source comes to."""
    record, store = _record_of(labels), labels.store
    name = record["source"]
    if name not in store.label_sets:
        return f"stale: its source, label set {name!r}, is gone"
    if store.label_sets[name].digest != record["digest"]:
        return (
            f"stale: label set {name!r} has changed since; thc interpolate {store.url} {name} "
            f"--into {labels.name} --overwrite makes it anew"
        )
    return UP_TO_DATE


def describe(labels: LabelSet) -> dict[str, Any]:
    """Return what a user wants to know of an interpolated label set, ready for JSON.

    ``leave_one_out`` holds for each region the Dice coefficient of all planes together and that
    of the worst one, None where no plane tells; and ``not_foretold``, the share of its annotated
    voxels that nothing is foretold of, which the coefficients leave out.
    """
    record, scores = _record_of(labels), leave_one_out(labels.store, labels.name)
    dim, n_planes = labels.scheme.kind, scores["dice"].notnull().sum("plane")
    worst = np.fmin.reduce(scores["dice"].values, axis=0, initial=np.nan)
    annotated, unknown = (scores[n].sum("plane") for n in ("n_annotated", "n_unknown"))
    share = (unknown / annotated.where(annotated > 0)).values
    gap_um = scores["gap_um"].values
    return {
        "source": record["source"],
        "state": state_of(labels),
        "annotated_planes": record["annotated_planes"],
        "interpolated_planes": [f"{a}:{b}" for a, b in record["interpolated_planes"]],
        "method": record["method"],
        "leave_one_out": {
            "over_um": [float(gap_um.min()), float(gap_um.max())] if len(gap_um) else None,
            "regions" if dim == "region" else "structures": {
                str(name): {
                    "dice": _number(scores["dice_all"].values[i]),
                    "worst": _number(worst[i]),
                    "n_planes": int(n_planes.values[i]),
                    "not_foretold": _number(share[i]),
                }
                for i, name in enumerate(scores[dim].values)
            },
        },
    }


def origins(store: Store, names: Sequence[str]) -> dict[str, str]:
    """Return of those label sets that are interpolated what from, and whether they are stale.

    What is no label set is passed over.
    """
    return {
        name: f"interpolated from {_record_of(labels)['source']} ({state_of(labels)})"
        for name, labels in _interpolated(store, names)
    }


def annotated(store: Store, names: Sequence[str], planes: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return for each plane whether no label set of those named is interpolated there."""
    found = np.ones(len(planes), bool)
    for _, labels in _interpolated(store, names):
        found &= np.isin(planes, _record_of(labels)["annotated_planes"])
    return found


def planes_apart(store: Store, names: Sequence[str]) -> int:
    """Return how many planes lie from one annotated plane to the next where sets are interpolated.

    1 where none is: each plane was annotated by itself. Of several sets it is the largest.
    """
    found = [1]
    for _, labels in _interpolated(store, names):
        planes = _record_of(labels)["annotated_planes"]
        found.append(-(-(planes[-1] - planes[0]) // (len(planes) - 1)))
    return max(found)


def _interpolated(store: Store, names: Sequence[str]) -> list[tuple[str, LabelSet]]:
    sets = [(name, store.label_sets[name]) for name in names if name in store.label_sets]
    return [(name, labels) for name, labels in sets if interpolation_of(labels) is not None]


def _number(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def _record_of(labels: LabelSet) -> dict[str, Any]:
    record = interpolation_of(labels)
    if record is None:
        raise RequestError(
            f"label set {labels.name!r} is not interpolated; make one that is: thc interpolate "
            f"{labels.store.url} {labels.name}"
        )
    return record


def remade(labels: LabelSet) -> AbstractContextManager[Between]:
    """Return a reader of the voxels of an interpolated label set, made anew from its source.

    The caller holds the store's lock.

    Raises
    ------
    RequestError
        Its source is gone or has changed.
    """
    record = _record_of(labels)
    if state_of(labels) != UP_TO_DATE:
        raise RequestError(f"label set {labels.name!r} is {state_of(labels)}")
    return between(labels.store.label_set(record["source"]), score=False)


def write_interpolated(
    store: Any,
    labels: str = "roi",
    into: str | None = None,
    *,
    memory_bytes: int = MEMORY_BYTES,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> LabelSet:
    """Fill a label set as ``interpolate`` does and return the new one."""
    name = checked_name(into or f"{labels}_interpolated")
    location = store_of(store).location
    with location.lock():
        completed = tidy(location)
        # Not before: until the lock is ours another process may change what the root says.
        opened = Store(location)
        source = opened.label_set(labels)
        made_from = interpolation_of(source)
        if made_from is not None:
            raise RequestError(
                f"label set {labels!r} is interpolated itself; interpolate {made_from['source']!r}"
            )
        if name == labels:
            raise RequestError(
                f"--into {name}: the annotated set stays as it is; choose another name"
            )
        again = completed == f"labels/{name}"
        if again and _is_done(opened.label_set(name), source):
            # What was asked for had broken off, and is complete now.
            return opened.label_set(name)
        check_free(opened, name, overwrite or again)
        with between(source, progress=progress) as found:
            new = replace(found, provenance=_record(source, found))
            return bring_in(opened, name, new, None, source.thc["codec"], memory_bytes, progress)


def _is_done(labels: LabelSet, source: LabelSet) -> bool:
    record = interpolation_of(labels)
    return record is not None and (record["source"], record["digest"]) == (
        source.name,
        source.digest,
    )


def _record(labels: LabelSet, found: Between) -> dict[str, Any]:
    """Return what a store keeps of how a label set was filled."""
    known = {z for box in found.source.known for z in range(box.start[0], box.stop[0])}
    filled: list[list[int]] = []
    for a, b in sorted({(e.start[0], e.stop[0]) for f in found.filled for e in f.boxes}):
        if filled and a <= filled[-1][1]:
            filled[-1][1] = max(filled[-1][1], b)
        else:
            filled.append([a, b])
    return {
        "kind": KIND,
        "source": labels.name,
        "digest": labels.digest,
        "method": METHOD,
        "software": f"thc_dask {__version__}",
        "annotated_planes": sorted(known),
        "interpolated_planes": filled,
        "leave_one_out": list(found.scores),
        "pieces": [[list(e.start), list(e.stop), list(shift)] for e, shift in found.pieces],
    }


def interpolate(
    volume: str | os.PathLike[str] | xr.DataTree,
    labels: str = "roi",
    into: str | None = None,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> xr.DataTree:
    """Fill a label set between its annotated planes, by shape; return the volume, opened again.

    The result is a label set of its own: the annotated planes as they are, and what lies between
    two of them where both are known. Each code is a shape whose signed distances are mixed
    linearly, and the largest wins. Nothing is extrapolated: before the first plane and after the
    last one nothing is known, and where only one of two planes has a code, the columns of voxels
    that hold it are unknown in between (docs/decisions/0009).

    With it goes how well this does: every plane within is foretold from those around it, over
    twice the gap; ``leave_one_out`` returns that.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    labels
        The label set to fill.
    into
        What to call the filled one; by default the name of the first and ``_interpolated``.
    overwrite
        Replace a label set of that name.
    progress
        Called with voxels done and voxels in all, once for each step.

    Raises
    ------
    MissingError
        There is no such label set.
    RequestError
        Nothing lies between two known planes, or the set is interpolated itself.
    ExistsError
        There is a label set of that name already.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, histogram, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> source = "phantom:32,64,96?channel=roi"
    >>> volume = labels(source, volume, "roi", "prasad2020-roi", planes=[4, 14, 24])
    >>> volume = interpolate(volume, "roi", into="roi_filled")
    >>> [round(int(histogram(volume, n).sum()) / 64 / 96) for n in ("roi", "roi_filled")]
    [3, 19]
    """
    kept = write_interpolated(volume, labels, into, overwrite=overwrite, progress=progress)
    return open_volume(kept.store.url)


def leave_one_out(
    volume: str | os.PathLike[str] | xr.DataTree | Store, labels: str = "roi_interpolated"
) -> xr.Dataset:
    """Return how an interpolated label set foretells annotated planes that it may not see.

    Every annotated plane but the first and the last is interpolated from those around it and held
    against what was annotated. Planes that touch go together; of more than three of them the
    first, the middle and the last are compared. The distance it is
    bridged over, ``gap_um``, is about twice that of the label set itself, so that the set is rather
    better than these scores where it foretells anything. Where a region ends it does not: such
    voxels are left out of the coefficients, and ``n_unknown`` counts them.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    labels
        An interpolated label set.

    Returns
    -------
    xarray.Dataset
        ``n_annotated`` (plane, region), all voxels of the region on the plane, in the columns that
        are known on planes on either side; ``n_unknown``, those of them that nothing is foretold
        of; ``n_predicted`` and ``n_both``, voxels that are foretold as the region, and rightly.
        ``dice``, twice ``n_both`` over the sum of ``n_predicted`` and of ``n_annotated`` less
        ``n_unknown``: it is over the voxels that something is foretold of. NaN where the planes
        around do not both have the region (``bracketed`` says which do), or among those voxels
        none is of the region or foretold as it. ``dice_all`` (region) is of the sums over all
        planes where it is bracketed. Of a set from before ``n_unknown`` was kept, it and
        ``n_annotated`` are NaN. Coordinates ``z``, ``below``, ``above`` and ``gap_um`` go with the
        planes. The last dim is ``structure`` for a set of structures.

    Raises
    ------
    MissingError
        There is no such label set.
    RequestError
        It is not interpolated.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, interpolate, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> source = "phantom:32,64,96?channel=roi"
    >>> volume = labels(source, volume, "roi", "prasad2020-roi", planes=[4, 14, 24])
    >>> found = leave_one_out(interpolate(volume, "roi"))
    >>> found.sizes["plane"], bool(found["dice_all"].sel(region="CTX") > 0.9)
    (1, True)
    """
    import xarray as xr

    store = store_of(volume)
    found = store.label_set(labels)
    record, scheme, grid = _record_of(found), found.scheme, store.grid
    planes, below, above = (
        np.array([row[i] for row in _planes(record)], np.int64) for i in range(3)
    )
    shape, dims = (len(planes), len(scheme.labels)), ("plane", scheme.kind)
    bracketed = np.array([row[3] for row in _planes(record)], bool).reshape(shape)
    compared, predicted, both, unknown = (
        _counts(record, f"n_{k}", shape) for k in ("annotated", "predicted", "both", "unknown")
    )
    z = grid.coordinates(0)
    coords = {
        "plane": planes,
        "z": ("plane", z[planes], {"units": "micrometer"}),
        "below": ("plane", below),
        "above": ("plane", above),
        "gap_um": ("plane", z[above] - z[below], {"units": "micrometer"}),
        scheme.kind: np.array(scheme.names, object),
        f"{scheme.kind}_code": (scheme.kind, scheme.codes),
    }
    data = {
        "dice": (dims, _dice(compared, predicted, both, bracketed)),
        "n_annotated": (dims, compared + unknown),
        "n_predicted": (dims, predicted),
        "n_both": (dims, both),
        "bracketed": (dims, bracketed),
        "dice_all": (
            scheme.kind,
            _dice(*((n * bracketed).sum(axis=0) for n in (compared, predicted, both, bracketed))),
        ),
        "n_unknown": (dims, unknown),
    }
    attrs = {
        "store": store.url,
        "labels": labels,
        "source": record["source"],
        "software": record["software"],
        "state": state_of(found),
        "method": record["method"],
        "dice": "2 n_both / (n_annotated - n_unknown + n_predicted); each plane from those around "
        "it",
    }
    return xr.Dataset(data, coords, attrs)


def _planes(record: dict[str, Any]) -> list[tuple[Any, ...]]:
    """Return of each plane that was left out its number, those around it and what both have."""
    return [
        (z, score["below"], score["above"], score["bracketed"])
        for score in record["leave_one_out"]
        for z in score["planes"]
    ]


def _counts(record: dict[str, Any], key: str, shape: tuple[int, int]) -> NDArray[Any]:
    """Return voxels by plane and row; NaN where a record from before does not have them."""
    scores = record["leave_one_out"]
    if not all(key in score for score in scores):
        return np.full(shape, np.nan)
    return np.array([row for score in scores for row in score[key]], np.int64).reshape(shape)


def _dice(annotated: Any, predicted: Any, both: Any, valid: Any) -> Any:
    """Return 2 both / (annotated + predicted), NaN where that says nothing."""
    total = annotated + predicted
    return np.where((total > 0) & (valid > 0), 2 * both / np.maximum(total, 1), np.nan)
