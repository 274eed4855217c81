"""Patches as xarray: voxels, where they are, what they show, and how they were drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from thc_dask import __version__
from thc_dask.interpolate import annotated, origins
from thc_dask.patches.selection import Selection
from thc_dask.patches.voxels import lazy

if TYPE_CHECKING:
    import xarray as xr

UM = {"units": "micrometer"}
KEY = (
    "region", "split", "z_um", "y_um", "x_um", "plane", "y_vox", "x_vox", "annotated",
)  # fmt: skip
"""Columns of an answer key after the number of the patch."""


def as_dataset(selection: Selection) -> xr.Dataset:
    """Return ``image`` (patch, y, x), lazy, with the answer key as coordinates along ``patch``."""
    import xarray as xr

    request, starts = selection.request, selection.starts
    grid, size = request.grid, request.size
    names = np.array(request.names, object)
    middle = [
        # To a femtometer: what is beyond is rounding, and would be written out.
        np.round(grid.coordinates(axis)[starts[:, axis]] + grid.spacing_um[axis] * (n - 1) / 2, 9)
        for axis, n in enumerate((1, *size))
    ]
    along = [
        p * (np.arange(n) - (n - 1) / 2) for p, n in zip(grid.spacing_um[1:], size, strict=True)
    ]
    coords: dict[str, Any] = {
        "patch": np.arange(len(starts)),
        "y": ("y", along[0], UM | {"long_name": "from the middle of the patch"}),
        "x": ("x", along[1], UM | {"long_name": "from the middle of the patch"}),
        "region": ("patch", names[selection.region]),
        "split": ("patch", np.where(selection.test, "test", "train").astype(object)),
        "z_um": ("patch", middle[0], UM),
        "y_um": ("patch", middle[1], UM),
        "x_um": ("patch", middle[2], UM),
        "plane": ("patch", starts[:, 0]),
        "y_vox": ("patch", starts[:, 1]),
        "x_vox": ("patch", starts[:, 2]),
        "annotated": ("patch", _annotated(selection)),
    }
    return xr.Dataset({"image": (("patch", "y", "x"), lazy(selection))}, coords, _attrs(selection))


def key_of(found: xr.Dataset) -> xr.Dataset:
    """Return the answer key as a table: one row a patch, with the columns ``KEY``."""
    import xarray as xr

    data = {name: ("patch", found[name].values) for name in KEY}
    return xr.Dataset(data, {"patch": found["patch"].values}, found.attrs)


def _annotated(selection: Selection) -> NDArray[np.bool_]:
    """Return for each patch whether labels of its plane were drawn, not interpolated."""
    request = selection.request
    level, last = request.level, request.store.grid.shape[0]
    known = {}
    for plane in sorted(set(selection.starts[:, 0].tolist())):
        below = np.arange(plane << level, min((plane + 1) << level, last))
        known[plane] = bool(annotated(request.store, [request.labels.name], below).any())
    return np.array([known[plane] for plane in selection.starts[:, 0].tolist()], bool)


def _attrs(selection: Selection) -> dict[str, Any]:
    request, store = selection.request, selection.request.store
    by = request.labels.name
    made = origins(store, [by])
    return {
        "store": store.url,
        "level": request.level,
        "by": by,
        "digests": {by: request.labels.digest, "image": store.digest},
        "software": f"thc_dask {__version__}",
        "size_um": request.size_um,
        "size_vox": list(request.size),
        "spacing_um": list(request.grid.spacing_um),
        "regions": list(request.names),
        "merge": {name: list(members) for name, members in request.merge.items()},
        "n_per_region": selection.n,
        "test": request.test,
        "margin_um": request.margin_um,
        "seed": request.seed,
        "n_planes": len(selection.planes),
        "rule": "every patch lies wholly inside one region, known voxels only, and none overlaps "
        "another; planes that are used lie at least margin_um apart, and those of test patches "
        "hold no train patch",
        **({"interpolated": made} if made else {}),
    }


def facts(found: xr.Dataset) -> dict[str, Any]:
    """Return what a user wants to know of patches at once, ready for JSON."""
    test = int((found["split"] == "test").sum())
    facts = {
        "patches": found.sizes["patch"],
        "train": found.sizes["patch"] - test,
        "test": test,
        "planes": len(np.unique(found["plane"])),
    }
    names = ("regions", "n_per_region", "size_um", "size_vox", "interpolated")
    return facts | {name: found.attrs[name] for name in names if name in found.attrs}
