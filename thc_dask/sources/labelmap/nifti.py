"""Headers of NIfTI-1 and NIfTI-2, plain or gzipped, by nibabel."""

from __future__ import annotations

import importlib
import warnings
import zlib
from typing import Any

import numpy as np

from thc_dask.errors import DataError, RequestError
from thc_dask.files import File
from thc_dask.sources.labelmap.header import Frame, Header, lengths, shortest
from thc_dask.sources.labelmap.packed import GZIP_OR_ZLIB

SIZES = {348: "Nifti1Header", 540: "Nifti2Header"}
HEAD_BYTES = 540
UNITS = {1: "m", 2: "mm", 3: "um"}


def describe(file: File) -> Header:
    """Return what the header of a ``.nii`` or ``.nii.gz`` file says.

    Raises
    ------
    RequestError
        nibabel is missing, or the voxels lie in another file.
    DataError
        The file is no NIfTI file, or damaged.
    """
    head, packed = _head(file)
    order = "little" if int.from_bytes(head[:4], "little") in SIZES else "big"
    size = int.from_bytes(head[:4], order)  # type: ignore[arg-type]
    magic = head[344:347] if size == 348 else head[4:7]
    if size not in SIZES or len(head) < size or magic[:1] != b"n" or magic[1:2] not in b"i+":
        raise DataError(f"nifti: {file.path} is not a NIfTI file")
    if magic[1:2] == b"i":
        raise RequestError(
            f"nifti: the voxels of {file.path} lie in another file (.img); save them as one .nii"
        )
    nibabel = _import_nibabel(file)
    try:
        return _described(file, getattr(nibabel, SIZES[size])(head[:size], check=False), packed)
    except (ValueError, KeyError, ArithmeticError, nibabel.spatialimages.HeaderDataError) as error:
        what = "unknown code " if isinstance(error, KeyError) else ""
        reason = what + " ".join(str(error).split())
        raise DataError(f"nifti: the header of {file.path} makes no sense: {reason}") from error


def _head(file: File) -> tuple[bytes, bool]:
    """Return the first bytes, unpacked, and whether they are packed."""
    try:
        with open(file.path, "rb") as handle:
            data = handle.read(64 * 1024)
        if data[:2] == b"\x1f\x8b":
            return zlib.decompressobj(GZIP_OR_ZLIB).decompress(data, HEAD_BYTES), True
        return data[:HEAD_BYTES], False
    except (OSError, zlib.error) as error:
        raise DataError(f"nifti: cannot read {file.path}: {error}") from error


def _import_nibabel(file: File) -> Any:
    try:
        return importlib.import_module("nibabel")
    except ImportError:
        raise RequestError(
            f"nifti: reading {file.path} needs nibabel; install it: pip install 'thc_dask[formats]'"
        ) from None


def _described(file: File, header: Any, packed: bool) -> Header:
    shape = tuple(int(n) for n in header.get_data_shape())
    single = type(header["pixdim"].flat[0])
    frame = Frame(
        sizes=tuple(abs(shortest(size)) for size in header["pixdim"][1 : len(shape) + 1]),
        unit=UNITS.get(int(header["xyzt_units"]) & 7, ""),
    )
    if header["sform_code"] > 0 or header["qform_code"] > 0:
        rows = header.get_best_affine().astype(single)
        affine = np.array([[shortest(value) for value in row] for row in rows])
        frame = frame._replace(
            directions=affine[:3, :3], corner=tuple(affine[:3, 3].tolist()), space="RAS"
        )
        _compare(file, frame, len(shape))
    offset = int(header["vox_offset"])
    if offset < len(header.binaryblock):
        raise ValueError(f"voxels from byte {offset} on, inside the header")
    slope, inter = header.get_slope_inter()
    scale = None if slope is None or (slope, inter) == (1.0, 0.0) else (slope, inter)
    packed_at = 0 if packed else None
    return Header("nifti", file, shape, header.get_data_dtype(), offset, packed_at, frame, scale)


def _compare(file: File, frame: Frame, n_axes: int) -> None:
    """Warn where a file gives two voxel sizes."""
    made = lengths(frame)[:n_axes]
    if not np.allclose(made, frame.sizes[:3], rtol=0.01, atol=0):
        said = [" x ".join(f"{size:g}" for size in sizes[:3]) for sizes in (made, frame.sizes)]
        warnings.warn(
            f"nifti: {file.path}: its affine makes voxels of {said[0]}, its pixdim {said[1]}, "
            "which is taken; give --spacing if it is wrong",
            stacklevel=2,
        )
