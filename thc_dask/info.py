"""What is in a store."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from thc_dask.interpolate import describe as describe_interpolated
from thc_dask.interpolate import interpolation_of
from thc_dask.renewal import states
from thc_dask.store.layout import Level
from thc_dask.store.location import describe as describe_files
from thc_dask.store.read import LabelSet, Store, store_of

if TYPE_CHECKING:
    import xarray as xr

SHOWN = ("method", "annotated_planes", "interpolated_planes", "leave_one_out")


def info(volume: str | os.PathLike[str] | xr.DataTree | Store) -> dict[str, Any]:
    """Return what a store holds, ready for JSON: geometry, levels, label sets, tables, origin.

    Raises MissingError, UnfinishedError or RequestError as ``open_volume`` does.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert
    >>> info(convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr"))["shape"]
    [32, 64, 96]
    """
    store = store_of(volume)
    grid = store.grid
    remote = "://" in store.url
    return {
        "store": store.url,
        "shape": list(grid.shape),
        "dtype": store.image().dtype.name,
        "spacing_um": list(grid.spacing_um),
        "origin_um": list(grid.origin_um),
        "size_um": [round(n * p, 6) for n, p in zip(grid.shape, grid.spacing_um, strict=True)],
        "n_vox": grid.n_vox,
        "levels": [_level(level) for level in store.levels],
        "labels": {name: _labels(labels) for name, labels in store.label_sets.items()},
        "tables": states(store),
        "maps": _maps(store),
        "unsettled": store.unsettled,
        "codec": store.thc["codec"],
        "normalisation": store.thc["normalisation"],
        "provenance": store.thc["provenance"],
        "software": store.thc["software"],
        "digest": store.digest,
        "files": {} if remote else describe_files(store.location),
    }


def _level(level: Level) -> dict[str, Any]:
    return {
        "shape": list(level.grid.shape),
        "spacing_um": list(level.grid.spacing_um),
        "chunk": list(level.chunk),
        "shard": list(level.shard),
        "n_shards": level.n_shards,
    }


def _labels(labels: LabelSet) -> dict[str, Any]:
    extents = labels.extents
    planes = sorted({z for e in extents for z in range(e.start[0], e.stop[0])})
    facts = {
        "scheme": labels.scheme.name,
        "kind": labels.scheme.kind,
        "names": {str(x.code): x.name for x in labels.scheme.labels},
        "extents": [str(e) for e in extents],
        "n_known_vox": sum(e.n_vox for e in extents),
        "n_planes": len(planes),
        "provenance": labels.thc["provenance"],
        "digest": labels.digest,
    }
    if interpolation_of(labels) is not None:
        # The scores plane by plane are for leave_one_out; here stands what they come to.
        shown = [{k: v for k, v in e.items() if k not in SHOWN} for e in facts["provenance"]]
        facts |= {"provenance": shown, "interpolated": describe_interpolated(labels)}
    return facts


def _maps(store: Store) -> dict[str, str]:
    """Return whether each map is of the voxels that are there now."""
    found = {}
    now = {"image": store.digest} | {n: s.digest for n, s in store.label_sets.items()}
    for path, node in store.nodes.items():
        if path.startswith("maps/") and path.count("/") == 1:
            of = node["attributes"]["thc"]["digests"]
            fresh = all(now.get(name) == digest for name, digest in of.items())
            found[path.split("/")[1]] = "up to date" if fresh else "stale: thc maps makes it anew"
    return found
