"""HDF5: the Data Exchange layout, or any dataset of numbers that is named, as a reader."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import MissingError, RequestError
from thc_dask.files import File, Plain, check_request, fingerprint, look_at, opened
from thc_dask.grid import AXES, Grid, Um, Vox
from thc_dask.sources.hdf5.description import axes_of, voxel_size_of
from thc_dask.sources.hdf5.names import claims, find_dataset, opened_by_library, split
from thc_dask.sources.hdf5.storage import Chunks, Library, storage_of, three

__all__ = ["Hdf5Dataset", "claims", "open_hdf5"]


@dataclass(frozen=True, eq=False)
class Hdf5Dataset:
    """A dataset of an HDF5 file as a ``Reader``: see ``open_hdf5``."""

    grid: Grid
    """Shape in voxels, spacing and origin in micrometers, along the axes as stored."""
    axes: str
    """Which axis is which, as stored: ``zyx``, or another order for ``views.reorder``."""
    dtype: np.dtype[Any]
    """Type of a voxel, in native byte order; booleans are uint8."""
    unit: Vox
    """What is decoded at once: a chunk; (1, 1, 1) where voxels lie plain."""
    provenance: dict[str, Any]
    """kind, location, dataset, shape, dtype, bytes on disk and a fingerprint of the files."""
    files: tuple[File, ...] = field(repr=False)
    """The file with the voxels, then others it refers to."""
    storage: Plain | Chunks | Library = field(repr=False)

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (axes as stored), of the dataset's type, with the voxels from ``start`` on.

        Safe to call from several threads at once; files are open only during the call.

        Raises
        ------
        RequestError
            ``out`` has another dtype or reaches outside the dataset.
        DataError
            A file is gone, was changed since it was opened, or is damaged.
        """
        check_request("hdf5", out, start, self.grid.shape, self.dtype)
        first = self.files[0]
        if not isinstance(self.storage, Library):
            with opened(first) as fd:
                self.storage.read_into(fd, first.path, out, start)
            return
        # The library fills in for files of a virtual dataset that are gone, and says nothing.
        for file in self.files:
            with opened(file):
                pass
        self.storage.read_into(first.path, out, start)


def open_hdf5(location: str | os.PathLike[str], spacing_um: Um | None = None) -> Hdf5Dataset:
    """Return a dataset of an HDF5 file as a reader.

    Uncompressed and deflated voxels (also lzf, lz4, zstd, blosc; shuffled or not) are read side by
    side by any number of threads; virtual datasets and other filters go through the library. An
    attribute ``axes`` ("z:y:x", as in Data Exchange) or labels of the dimensions that name z, y
    and x say how the axes are stored; else they are taken for z, y, x. A dataset of two axes is
    one plane.

    Parameters
    ----------
    location
        ``file.h5``, or with the path of a dataset: ``file.h5:/exchange/data``. Without one it is
        ``/exchange/data``, else the only dataset of three axes.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers. None takes what attributes
        (``element_size_um``, ``voxel_size`` with its ``voxel_size_unit``, ...) say, else what Data
        Exchange says of the measurement: the resolution behind the lens, or the detector's pixel
        size over the magnification.

    Raises
    ------
    MissingError
        No such file or dataset.
    RequestError
        No voxel size, several datasets and none named, projections, complex or compound values,
        not two or three axes, or a filter that is not there.
    DataError
        The file is empty, truncated, being written, or not HDF5.

    Examples
    --------
    >>> import h5py
    >>> from tempfile import mkdtemp
    >>> path = mkdtemp() + "/scan.h5"
    >>> with h5py.File(path, "w") as file:
    ...     file["exchange/data"] = np.arange(24, dtype=np.uint16).reshape(2, 3, 4)
    >>> dataset = open_hdf5(path, (1.17, 1.17, 1.17))
    >>> out = np.empty((1, 1, 4), np.uint16)
    >>> dataset.read_into(out, (1, 2, 0))
    >>> dataset.grid.shape, dataset.axes, dataset.dtype.name, out.ravel().tolist()
    ((2, 3, 4), 'zyx', 'uint16', [20, 21, 22, 23])
    """
    path, name = split(location)
    named = look_at(path, "hdf5")
    with opened_by_library(named) as file:
        dataset = find_dataset(file, name)
        dtype = _type_of(dataset)
        axes = axes_of(dataset)
        grid = Grid(three(dataset.shape), _spacing(dataset, file, axes, spacing_um))
        storage = None if dataset.is_virtual else storage_of(dataset)
        files = _files(dataset, named, storage is None)
        unit = three(dataset.chunks or (1, 1))
        z, y, x = (min(u, n) for u, n in zip(unit, grid.shape, strict=True))
        provenance = {
            "kind": "hdf5",
            "location": str(location),
            "dataset": dataset.name,
            "shape": list(grid.shape),
            "dtype": dtype.name,
            "total_bytes": sum(f.size for f in files),
            "fingerprint": fingerprint(
                [dataset.name, *((os.path.basename(f.path), *f[1:]) for f in files)]
            ),
        }
        library = Library(name or dataset.name)
        return Hdf5Dataset(grid, axes, dtype, (z, y, x), provenance, files, storage or library)


def _type_of(dataset: Any) -> np.dtype[Any]:
    """Return the type of a voxel in memory, after a look whether there are voxels at all."""
    where = f"{dataset.name} of {dataset.file.filename}"
    try:
        dtype = dataset.dtype
    except TypeError:
        dtype = np.dtype("O")  # a type of HDF5 that numpy has not
    if dataset.shape is None or dataset.ndim not in (2, 3) or 0 in dataset.shape:
        raise RequestError(
            f"hdf5: {where} has shape {dataset.shape}; name a dataset (z, y, x), or a plane (y, x)"
        )
    if dataset.external:
        raise RequestError(
            f"hdf5: {where} keeps its voxels in other files ({dataset.external[0][0]}); bring them "
            "into one: h5repack"
        )
    if dtype.kind not in "buif" or dtype.itemsize > 8:
        raise RequestError(f"hdf5: {where} holds {dtype}; allowed: integers and floats")
    return np.dtype(np.uint8) if dtype.kind == "b" else np.dtype(dtype.str).newbyteorder("=")


def _spacing(dataset: Any, file: Any, axes: str, given: Um | None) -> Um:
    """Return the voxel size along the axes as stored."""
    if given is not None:
        first, second, third = (given[AXES.index(axis)] for axis in axes)
        return first, second, third
    found = voxel_size_of(dataset, file)
    if found is None:
        raise RequestError(
            f"hdf5: no voxel size for {dataset.name} of {file.filename}; give it as --spacing "
            "1.17um"
        )
    return found


def _files(dataset: Any, named: File, by_library: bool) -> tuple[File, ...]:
    """Return the files that hold voxels, or say where they are; what to open comes first."""
    home = look_at(dataset.file.filename, "hdf5")
    sources = _virtual_sources(dataset) if dataset.is_virtual else []
    return tuple(dict.fromkeys([named if by_library else home, home, named, *sources]))


def _virtual_sources(dataset: Any) -> list[File]:
    """Return the files that a virtual dataset shows, after a look whether all are there."""
    folder = os.path.dirname(dataset.file.filename)
    files: dict[File, None] = {}
    for name, inside in sorted({(s.file_name, s.dset_name) for s in dataset.virtual_sources()}):
        if name == "." or "%" in name:  # this file; files that are numbered as they come
            continue
        near = os.path.join(folder, name)
        file = look_at(near if os.path.exists(near) else name, "hdf5")
        files[file] = None
        with opened_by_library(file) as source:
            if inside not in source:
                raise MissingError(
                    f"hdf5: {file.path} has no dataset {inside}, which {dataset.name} of "
                    f"{dataset.file.filename} shows"
                )
    return list(files)
