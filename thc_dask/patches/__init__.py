"""Balanced patches of regions, for annotators and for training, with a split that does not leak."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from thc_dask.merging import Merge
from thc_dask.progress import Progress
from thc_dask.store.read import Store, store_of

if TYPE_CHECKING:
    import xarray as xr

    Volume = str | os.PathLike[str] | xr.DataTree | Store


def patches(
    volume: Volume,
    by: str = "roi",
    *,
    size_um: float = 150.0,
    n_per_region: int | None = None,
    regions: str | Sequence[str] | None = None,
    merge: Merge = None,
    test: float = 0.3,
    margin_um: float = 20.0,
    level: int = 0,
    seed: int = 0,
    out: str | os.PathLike[str] | None = None,
    key: str | os.PathLike[str] | None = None,
    progress: Progress | None = None,
) -> xr.Dataset:
    """Return views of planes that each lie wholly inside one region, as many of every region.

    Views hold known voxels only and none overlaps another. Planes that are used lie at least
    ``margin_um`` apart, and each gives patches to train or to test, never to both. The label set
    is read at once, on those planes alone, as it says where patches can be; the voxels of the
    image are lazy (dask). ``docs/how-to/patches.md`` says how patches are drawn.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    by
        Label set of the regions.
    size_um
        Side of a patch in micrometers, rounded to whole voxels along y and x.
    n_per_region
        Patches of each region, train and test together; None draws as many as every region has.
    regions
        Only these, as they are called after merging; None takes all that occur.
    merge
        Regions that count as one: ``{"VP": ["TRN", "VP"]}``, ``"VP=TRN,VP"``, several of these in
        a list, or ``"prasad2020"`` for those of the paper's study of annotators (VP and WM).
    test
        Share of each region's patches that is for testing, 0 to below 1; 0 makes no split.
    margin_um
        Least distance along z of two planes that are used, in micrometers.
    level
        Of the pyramid.
    seed
        Of all that is drawn: the same seed gives the same patches in the same order.
    out
        Folder ``.zarr`` to write patches to; with it goes an answer key.
    key
        File of the answer key; by default, for ``out.zarr``, ``out_key.csv``.
    progress
        Called with planes done and planes in all, then with patches written.

    Returns
    -------
    xarray.Dataset
        ``image`` (patch, y, x) in the store's type. ``y`` and ``x`` are micrometers from the
        middle of a patch. Along ``patch``, whose order is shuffled: ``region``, ``split`` (train or
        test), ``z_um``, ``y_um``, ``x_um`` (the middle, micrometers), ``plane``, ``y_vox``,
        ``x_vox`` (first voxel, of the level) and ``annotated`` (False where labels of the plane
        are interpolated). Where all of it comes from stands in ``attrs``.

    Raises
    ------
    MissingError
        There is no such label set or region; the message names those there are.
    RequestError
        Patches of that size fit nowhere (the message says which would), a region has too few (it
        says how many there are), train and test cannot lie apart, or an option makes no sense.
    ExistsError
        A folder has the name of ``out`` that is not one of patches.
    WriteError
        A file cannot be written.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:48,96,288", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:48,96,288?channel=roi", volume, "roi", "prasad2020-roi")
    >>> found = patches(volume, size_um=15, n_per_region=6, regions=["CTX", "VP"],
    ...                 merge={"VP": ["TRN", "VP"]}, test=0.5)
    >>> found["image"].shape, int((found["region"] == "VP").sum())
    ((12, 13, 13), 6)
    """
    from thc_dask import output
    from thc_dask.patches.request import make_request
    from thc_dask.patches.selection import select
    from thc_dask.patches.table import as_dataset, key_of
    from thc_dask.patches.writing import check_out, write_patches

    if out is not None:
        check_out(out)
        key = key_path(out) if key is None else key
    if key is not None:
        output.check_target(key)
        output.check_apart(out, key)
    request = make_request(
        store_of(volume), by, size_um, n_per_region, regions, merge, test, margin_um, level, seed
    )
    selection = select(request, progress)
    found = as_dataset(selection)
    if out is not None:
        write_patches(found, selection, out, progress)
    if key is not None:
        output.write_table(key_of(found), key)
    return found


def key_path(out: str | os.PathLike[str]) -> Path:
    """Return where the answer key of patches goes by default.

    >>> key_path("out/patches.zarr").as_posix()
    'out/patches_key.csv'
    """
    path = Path(out)
    return path.with_name(f"{path.stem}_key.csv")
