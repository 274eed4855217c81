"""Images and label maps of medical imaging as a reader: NIfTI, ITK MetaImage, NRRD.

ITK-SNAP, 3D Slicer and Fiji save segmentations so. Voxels are read in place, block by block; packed
ones are unpacked on the way, never as a whole.
"""

from __future__ import annotations

import math
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError, ThcError
from thc_dask.files import File, Plain, check_request, fingerprint, look_at, opened
from thc_dask.grid import Grid, Um, Vox
from thc_dask.sources.labelmap import metaimage, nifti, nrrd
from thc_dask.sources.labelmap.header import (
    Header,
    orientation,
    origin_of,
    spacing_of,
    tilt,
)
from thc_dask.sources.labelmap.packed import Packed

__all__ = ["LabelMap", "claims", "open_labelmap"]

FORMATS = {
    ".nii": nifti.describe, ".nii.gz": nifti.describe,
    ".mha": metaimage.describe, ".mhd": metaimage.describe,
    ".nrrd": nrrd.describe, ".nhdr": nrrd.describe,
}  # fmt: skip
MOST_DEGREES = 1.0


@dataclass(frozen=True, eq=False)
class LabelMap:
    """Voxels of a NIfTI, MetaImage or NRRD file as a ``Reader``: see ``open_labelmap``."""

    grid: Grid
    """Shape in voxels, spacing and origin in micrometers (z, y, x)."""
    dtype: np.dtype[Any]
    """Type of a voxel, in native byte order."""
    provenance: dict[str, Any]
    """kind, location, orientation, shape, dtype, bytes on disk and a fingerprint of the files."""
    file: File = field(repr=False)
    """The one with the voxels."""
    storage: Plain | Packed = field(repr=False)
    scale: tuple[float, float] | None
    """Slope and intercept from stored values to grey levels; None where they are the same."""

    @property
    def unit(self) -> Vox:
        """Any box can be read; of packed voxels, a run of planes costs as much as a part of it."""
        return self.storage.unit

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x), of the reader's own dtype, with the voxels from ``start`` on.

        Safe to call from several threads at once; the file is open only during the call.

        Raises
        ------
        RequestError
            ``out`` has another dtype or reaches outside the image.
        DataError
            The file is gone, was changed since it was opened, is truncated or damaged.
        """
        check_request(self.provenance["kind"], out, start, self.grid.shape, self.dtype)
        if self.scale is None:
            self._read_stored(out, start)
            return
        slope, inter = self.scale
        plain = self.storage if isinstance(self.storage, Plain) else self.storage.plain
        stored = np.empty(out.shape, plain.stored.newbyteorder("="))
        self._read_stored(stored, start)
        with np.errstate(over="ignore"):  # a scale may lead out of what float32 holds
            for plane, values in zip(out, stored, strict=True):
                plane[...] = values * np.float64(slope) + inter

    def _read_stored(self, out: NDArray[Any], start: Vox) -> None:
        with opened(self.file) as fd:
            if isinstance(self.storage, Plain):
                self.storage.read_into(fd, self.file.path, out, start)
            else:
                self.storage.read_into(fd, out, start)


def claims(location: str) -> bool:
    """Whether a location looks like one of these files.

    >>> claims("roi.nii.gz"), claims("ROI.MHA"), claims("roi.tif")
    (True, True, False)
    """
    return _suffix(location) is not None


def _suffix(location: str) -> str | None:
    return next((s for s in FORMATS if location.lower().endswith(s)), None)


def open_labelmap(location: str | os.PathLike[str], spacing_um: Um | None = None) -> LabelMap:
    """Return an image or label map of a NIfTI, MetaImage or NRRD file as a reader.

    Voxels keep the order in which they are stored: the fastest axis is x, the slowest z, as in the
    TIFF stack that a segmentation was painted on. They are neither turned nor flipped into a
    standard pose; ``provenance["orientation"]`` says where x, y and z point to (``LPS``: left,
    posterior, superior). The origin is that of the file, along the axes' own directions.

    Parameters
    ----------
    location
        Path of a ``.nii``, ``.nii.gz``, ``.mha``, ``.mhd``, ``.nrrd`` or ``.nhdr`` file, in any
        case, with one value a voxel; axes of one voxel behind the third are left out.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers. None takes what the file says, in its
        own units; MetaImage and NRRD without units are in millimeters.

    Returns
    -------
    LabelMap
        dims (z, y, x), of the file's own dtype; where a NIfTI file scales its values, float32,
        or float64 if it stores 32 bit integers or more.

    Raises
    ------
    MissingError
        No such file, or that with its voxels is not there.
    RequestError
        Another suffix, no voxel size, colours or several channels, not two or three axes, voxels
        in several files or encoded in rare ways.
    DataError
        The file is empty, truncated, damaged, or not of its format.

    Warns
    -----
    UserWarning
        The axes are turned by more than a degree, a file contradicts itself on its voxel size, or
        gives 1 mm, as programs do that know none.

    Examples
    --------
    >>> import nibabel
    >>> from tempfile import mkdtemp
    >>> path = mkdtemp() + "/roi.nii.gz"
    >>> voxels = np.arange(24, dtype=np.uint8).reshape(4, 3, 2)  # x, y, z
    >>> image = nibabel.Nifti1Image(voxels, np.diag([-0.00117, -0.00117, 0.002, 1]))
    >>> image.header.set_xyzt_units("mm")
    >>> nibabel.save(image, path)
    >>> roi = open_labelmap(path)
    >>> out = np.empty((2, 1, 1), np.uint8)
    >>> roi.read_into(out, (0, 1, 3))
    >>> roi.grid.shape, roi.grid.spacing_um, roi.provenance["orientation"], out.ravel().tolist()
    ((2, 3, 4), (2.0, 1.17, 1.17), 'LPS', [20, 21])
    """
    path = os.fspath(location)
    suffix = _suffix(path)
    if suffix is None:
        raise RequestError(f"label map {path}: unknown suffix; allowed: {', '.join(FORMATS)}")
    named = look_at(path, suffix[1:])
    header = _described(named, suffix)
    shape = _shape(named, header)
    storage = _storage(header, shape)
    spacing = spacing_um or _spacing(named, header)
    grid = Grid(shape, spacing, origin_of(header.frame, spacing))
    stored = header.stored.newbyteorder("=")
    dtype = stored if header.scale is None else np.result_type(stored, np.float32)
    _warn_if_tilted(named, header)
    files = list(dict.fromkeys([named, header.file]))
    provenance = {
        "kind": header.kind,
        "location": str(location),
        "orientation": orientation(header.frame),
        "shape": list(shape),
        "dtype": dtype.name,
        "total_bytes": sum(file.size for file in files),
        "fingerprint": fingerprint([(os.path.basename(f.path), *f[1:]) for f in files]),
    }
    return LabelMap(grid, dtype, provenance, header.file, storage, header.scale)


def _described(file: File, suffix: str) -> Header:
    try:
        return FORMATS[suffix](file)
    except ThcError:
        raise
    except OSError as error:
        raise DataError(f"{suffix[1:]}: cannot read {file.path}: {error.strerror}") from error


def _shape(named: File, header: Header) -> Vox:
    """Return the voxels (z, y, x), after a look whether they are numbers at all."""
    shape, stored = header.shape, header.stored
    if stored.kind not in "buif" or stored.itemsize > 8:
        raise RequestError(
            f"{header.kind}: {named.path} holds {stored}; allowed: integers and floats"
        )
    if len(shape) < 2 or min(shape) < 1 or any(n > 1 for n in shape[3:]):
        raise RequestError(
            f"{header.kind}: {named.path} has shape {shape}; give one volume (x, y, z), or a plane"
        )
    x, y, z = (*shape, 1)[:3]
    return z, y, x


def _storage(header: Header, shape: Vox) -> Plain | Packed:
    """Return where the voxels lie, after a look whether all of them can be there."""
    file, offset, n_bytes = header.file, header.offset, math.prod(shape) * header.stored.itemsize
    plain = Plain(file.size - n_bytes if offset is None else offset, shape, header.stored)
    if header.packed_at is not None:
        return Packed(file, header.packed_at, plain)
    if plain.offset < 0 or plain.end > file.size:
        raise DataError(
            f"{header.kind}: {file.path} is truncated: its {shape} {header.stored} (z,y,x) need "
            f"{max(plain.end, n_bytes)} bytes, it has {file.size}; copy it again"
        )
    return plain


def _spacing(named: File, header: Header) -> Um:
    """Return the voxel size that the header gives; say so where it may be none at all."""
    found, sizes, unit = spacing_of(header.frame), header.frame.sizes[:3], header.frame.unit
    given = " x ".join(f"{size:g}" for size in sizes)
    if found is None:
        why = f" (its header says {given} {unit or 'of no unit'})" if sizes else ""
        raise RequestError(
            f"{header.kind}: no voxel size in {named.path}{why}; give it as --spacing 1.17um"
        )
    if set(found) == {1000.0}:
        warnings.warn(
            f"{header.kind}: {named.path} gives voxels of 1 mm, as programs do that know no size; "
            "give --spacing if they are smaller",
            stacklevel=3,
        )
    return found


def _warn_if_tilted(named: File, header: Header) -> None:
    if (degrees := tilt(header.frame)) > MOST_DEGREES:
        warnings.warn(
            f"{header.kind}: the axes of {named.path} are turned by {degrees:.1f} degrees against "
            "those of its space; voxels are taken as they are stored",
            stacklevel=3,
        )
