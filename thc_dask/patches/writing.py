"""Patches to a zarr folder, block by block, whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from thc_dask import output, schedule
from thc_dask.errors import RequestError
from thc_dask.patches.selection import Selection
from thc_dask.patches.voxels import Numbered, blocks, cut_of
from thc_dask.progress import Progress, Standing, tell
from thc_dask.store.read import Store

if TYPE_CHECKING:
    import xarray as xr


def check_out(out: str | os.PathLike[str]) -> None:
    """Raise RequestError where patches may not be written; ExistsError over something else."""
    if output.check_target(out) != ".zarr":
        raise RequestError(f"output {out}: patches go to a folder .zarr; --key writes their table")


def write_patches(
    found: xr.Dataset, selection: Selection, out: str | os.PathLike[str],
    progress: Progress | None = None,
) -> None:  # fmt: skip
    """Write patches with all that is known of them, in place of patches that were there before.

    Raises
    ------
    RequestError, ExistsError
        As ``check_out`` says; or the store was changed meanwhile.
    WriteError
        A file cannot be written.
    """
    check_out(out)
    task, n = Numbered(cut_of(selection)), sum(1 for _ in blocks(selection))
    with output.replacing(out) as folder:
        # Coordinates and metadata; voxels follow.
        marked = found.assign_attrs({output.MARK: 1})
        marked.to_zarr(folder, mode="w", zarr_format=2, consolidated=True, compute=False)
        for done, (first, voxels) in enumerate(schedule.run(task, blocks(selection)), 1):
            _put(folder, first, voxels)
            tell(progress, Standing(done, n, step="write"))
        _check_unchanged(selection)


def _check_unchanged(selection: Selection) -> None:
    """Raise RequestError where voxels or labels are others by now: patches would be of both."""
    before, name = selection.request.store, selection.request.labels.name
    now = Store(before.location)
    labels = now.label_set(name).digest if name in now.label_sets else None
    if (now.digest, labels) != (before.digest, selection.request.labels.digest):
        raise RequestError(
            f"{before.url} was changed while patches of it were written; draw them again"
        )


def _put(folder: Path, first: int, voxels: NDArray[Any]) -> None:
    import zarr

    # A patch may be black from corner to corner, and is to be read as that.
    array = zarr.open_array(
        folder, path="image", mode="r+", zarr_format=2, config={"write_empty_chunks": True}
    )
    array[first : first + len(voxels)] = voxels
