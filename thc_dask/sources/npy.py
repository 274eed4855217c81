"""NumPy ``.npy`` files as a reader: voxels are read straight into the caller's memory."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError, ThcError
from thc_dask.files import File, Plain, check_request, fingerprint, look_at, opened
from thc_dask.grid import Grid, Um, Vox

SUFFIX = ".npy"

Header = tuple[tuple[int, ...], bool, np.dtype[Any]]


@dataclass(frozen=True, eq=False)
class NpyFile:
    """An array of an ``.npy`` file as a ``Reader``: see ``open_npy``."""

    grid: Grid
    """Shape in voxels, spacing and origin in micrometers (z, y, x)."""
    dtype: np.dtype[Any]
    """Type of a voxel, in native byte order; booleans are uint8."""
    provenance: dict[str, Any]
    """kind, location, shape, dtype, bytes on disk and a fingerprint of the file."""
    file: File = field(repr=False)
    plain: Plain = field(repr=False)

    @property
    def unit(self) -> Vox:
        """Any box can be read; in Fortran order a column of z costs no more than a part of it."""
        return self.plain.unit

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x), of the file's own dtype, with the voxels from ``start`` on.

        Safe to call from several threads at once; the file is open only during the call.

        Raises
        ------
        RequestError
            ``out`` has another dtype or reaches outside the array.
        DataError
            The file is gone or was changed since it was opened.
        """
        check_request("npy", out, start, self.grid.shape, self.dtype)
        with opened(self.file) as fd:
            self.plain.read_into(fd, self.file.path, out, start)


def open_npy(location: str | os.PathLike[str], spacing_um: Um | None = None) -> NpyFile:
    """Return the array of an ``.npy`` file as a reader, axes ``z, y, x``.

    Arrays in C and in Fortran order are read in place, block by block, of either byte order. An
    array of two axes (y, x) is one plane.

    Parameters
    ----------
    location
        Path of the file.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers; the format itself knows none.

    Raises
    ------
    MissingError
        No such file.
    RequestError
        No voxel size, not two or three axes, or values that are not integers or floats.
    DataError
        The file is empty, truncated, or not of this format.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> path = mkdtemp() + "/volume.npy"
    >>> np.save(path, np.arange(24, dtype=np.uint8).reshape(2, 3, 4))
    >>> array = open_npy(path, (1.17, 1.17, 1.17))
    >>> out = np.empty((1, 1, 4), np.uint8)
    >>> array.read_into(out, (1, 2, 0))
    >>> array.grid.shape, array.dtype.name, out.ravel().tolist()
    ((2, 3, 4), 'uint8', [20, 21, 22, 23])
    """
    file = look_at(location, "npy")
    (shape, fortran, stored), offset = _header(file)
    if stored.kind not in "buif" or stored.itemsize > 8:
        raise RequestError(f"npy: {file.path} holds {stored}; allowed: integers and floats")
    if len(shape) not in (2, 3) or 0 in shape:
        raise RequestError(
            f"npy: {file.path} has shape {shape}; give an array (z, y, x), or a plane (y, x)"
        )
    if stored.kind == "b":
        stored = np.dtype(np.uint8)
    z, y, x = shape if len(shape) == 3 else (1, *shape)
    plain = Plain(offset, (z, y, x), stored, fortran)
    if plain.end > file.size:
        raise DataError(
            f"npy: {file.path} is truncated: its {shape} {stored} end at byte {plain.end}, the "
            f"file at {file.size}; copy it again"
        )
    if spacing_um is None:
        raise RequestError(f"npy: no voxel size in {file.path}; give it as --spacing 1.17um")
    dtype = stored.newbyteorder("=")
    provenance = {
        "kind": "npy",
        "location": str(location),
        "shape": [z, y, x],
        "dtype": dtype.name,
        "total_bytes": file.size,
        "fingerprint": fingerprint([os.path.basename(file.path), file.size, file.mtime_ns]),
    }
    return NpyFile(Grid((z, y, x), spacing_um), dtype, provenance, file, plain)


def _header(file: File) -> tuple[Header, int]:
    """Return shape, order and type of the array, and the byte where its values begin."""
    try:
        with open(file.path, "rb") as handle:
            return _parse(file, handle), handle.tell()
    except ThcError:
        raise
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise DataError(f"npy: {file.path} is not a readable .npy file: {reason}") from error


def _parse(file: File, handle: BinaryIO) -> Header:
    magic = handle.read(4)
    handle.seek(0)
    if magic.startswith(b"PK"):
        raise RequestError(
            f"npy: {file.path} is an archive of arrays (.npz); save one alone with numpy.save"
        )
    version = np.lib.format.read_magic(handle)
    if version[0] > 3:
        raise ValueError(f"version {version[0]} of the format is not known")
    # Version 3 differs from 2 in the names of fields only, and fields are refused.
    one = version == (1, 0)
    read = np.lib.format.read_array_header_1_0 if one else np.lib.format.read_array_header_2_0
    header: Header = read(handle)
    return header
