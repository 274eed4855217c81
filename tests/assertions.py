"""References in plain numpy, and what tests look at: files, errors, laziness."""

import itertools
from uuid import uuid4

import dask
import numpy as np
import zarr
from scipy.ndimage import distance_transform_edt

from thc_dask.remote import zarr_place
from thc_dask.store.location import locate


def new_store():
    """Return the URL of a store that does not exist; memory is faster than a disk."""
    return f"memory://{uuid4().hex}/volume.ome.zarr"


def read_files(store):
    """Return the bytes of all files of a store by key."""
    location = locate(store)
    return {key: location.get(key) for key in location.keys("")}


def read_voxels(store, path):
    """Return an array of a store as plain zarr reads it, without our metadata of all nodes."""
    return zarr.open_group(zarr_place(str(store)), mode="r", use_consolidated=False)[path][...]


def raise_if_computes():
    """Return a context in which computing any dask graph is an error."""

    def scheduler(*args, **kwargs):
        raise AssertionError("something was computed")

    return dask.config.set(scheduler=scheduler)


def _corners(array, fill):
    """Return the 8 voxels under each voxel of the next level, ``fill`` where there is none."""
    padded = np.pad(array, [(0, n % 2) for n in array.shape], constant_values=fill)
    starts = itertools.product((0, 1), repeat=3)
    return np.stack([padded[z::2, y::2, x::2] for z, y, x in starts])


def mean_pyramid(array, n_levels):
    """Return the levels of an image: means of the voxels that exist, halves to even."""
    levels = [array]
    while len(levels) < n_levels:
        # Means of 1, 2, 4 or 8 integers: float64 holds them exactly.
        means = np.nanmean(_corners(levels[-1].astype(np.float64), np.nan), axis=0)
        levels.append(np.rint(means).astype(array.dtype))
    return levels


def mode_pyramid(labels, known, n_levels):
    """Return the levels of a label set: modes of the known voxels, ties to the smallest code."""
    levels = [labels]
    while len(levels) < n_levels:
        votes = _corners(levels[-1], 0)
        may = _corners(known, False)
        codes = np.unique(labels)  # rising, and argmax takes the first of equals
        n = np.stack([((votes == code) & may).sum(axis=0) for code in codes])
        known = may.any(axis=0)
        levels.append(np.where(known, codes[n.argmax(axis=0)], 0).astype(labels.dtype))
    return levels


def between_planes(below, above, n, spacing=(1.0, 1.0)):
    """Return the labels between two planes that are ``n`` apart, by plain distance transforms.

    Numbers above 0, and 0 where a plane is not known; the same in what is between, and where one
    of the two has a number that the other has not.
    """
    numbers = np.intersect1d(below[below > 0], above[above > 0])
    out = np.zeros((n - 1, *below.shape), below.dtype)
    if not len(numbers):
        return out

    def away(shape):
        if not shape.any():
            return np.full(shape.shape, np.inf)
        found = distance_transform_edt(~shape, sampling=spacing)
        return found.astype(np.float32).astype(np.float64) - 0.5  # mixing these rounds nothing

    def signed(plane, number):
        others = (plane > 0) & (plane != number)
        return np.where(plane == number, away(others), -away(plane == number))

    known = np.isin(below, numbers) & np.isin(above, numbers)
    ends = [(signed(below, i), signed(above, i)) for i in numbers]
    for z in range(1, n):
        with np.errstate(invalid="ignore"):  # of what is not known
            mixed = np.stack([(n - z) * a + z * b for a, b in ends])
        out[z - 1] = np.where(known, numbers[mixed.argmax(axis=0)], 0)
    return out


def known_mask(shape, extents):
    """Return which voxels lie in at least one of the boxes."""
    mask = np.zeros(shape, bool)
    for extent in extents:
        mask[tuple(slice(a, b) for a, b in zip(extent.start, extent.stop, strict=True))] = True
    return mask


def box_mask(coordinates, box):
    """Return which voxels have their centre in a half-open box."""
    inside = [
        (centres >= low) & (centres < high)
        for centres, low, high in zip(coordinates, box.start_um, box.stop_um, strict=True)
    ]
    return inside[0][:, None, None] & inside[1][:, None] & inside[2]


def joint_counts(rows, columns, row_codes, column_codes, mask, groups=None):
    """Return how often each pair of values stands at the same voxel of the mask.

    With ``groups``, the number of a group for each voxel, the groups are counted apart.
    """
    groups = np.zeros(mask.shape, int) if groups is None else groups
    n = groups.max(initial=0) + 1
    table = np.zeros((n, len(row_codes), len(column_codes)), np.int64)
    row = np.searchsorted(row_codes, rows[mask])
    column = np.searchsorted(column_codes, columns[mask])
    np.add.at(table, (groups[mask], row, column), 1)
    return table
