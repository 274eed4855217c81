"""TIFF, PNG and JPEG 2000: a file, a folder of slices, or stacks in a row, as a reader.

Uncompressed pages are read straight into the caller's memory; of compressed ones only the
strips or tiles that a block touches are decoded. Headers are read once, at opening.
"""

from __future__ import annotations

import itertools
import logging
import os
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError
from thc_dask.files import File, check_request, fingerprint, read_rows, using
from thc_dask.grid import Grid, Um, Vox
from thc_dask.sources.slices.decode import read_segments
from thc_dask.sources.slices.files import Location, find, warm
from thc_dask.sources.slices.headers import Described, Layout, describe_all, page_name
from thc_dask.sources.slices.spacing import spacing_of

__all__ = ["SliceStack", "open_slices"]


@dataclass(frozen=True, eq=False)
class SliceStack:
    """Planes of TIFF, PNG or JPEG 2000 files as a ``Reader``: see ``open_slices``."""

    grid: Grid
    """Shape in voxels, spacing and origin in micrometers (z, y, x)."""
    dtype: np.dtype[Any]
    """Type of a voxel, in native byte order."""
    unit: Vox
    """What is decoded at once: a strip, a tile, an image; (1, 1, 1) where pixels lie plain."""
    provenance: dict[str, Any]
    """kind, location, files, shape, dtype, bytes on disk and a fingerprint of the files."""
    files: tuple[File, ...] = field(repr=False)
    layouts: tuple[Layout, ...] = field(repr=False)
    planes: NDArray[np.int64] = field(repr=False)
    """(z, 3): file, layout, and first row of ``segments`` of each plane."""
    segments: NDArray[np.int64] = field(repr=False)
    """(n, 2): offset and size in bytes."""

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out`` (z, y, x), of the stack's own dtype, with the voxels from ``start`` on.

        Safe to call from several threads at once; files are open only during the call.

        Raises
        ------
        RequestError
            ``out`` has another dtype or reaches outside the stack.
        DataError
            A file is gone, was changed since it was opened, or is damaged.
        """
        check_request("slices", out, start, self.grid.shape, self.dtype)
        z0 = start[0]
        planes = enumerate(self.planes[z0 : z0 + len(out)].tolist() if out.size else [])
        for number, group in itertools.groupby(planes, lambda item: int(item[1][0])):
            self._read_file(self.files[number], out, list(group), start)

    def _read_file(
        self, file: File, out: NDArray[Any], planes: list[tuple[int, list[int]]], start: Vox
    ) -> None:
        """Read planes of one file; each is given as its place in ``out`` and its row."""
        z0, y0, x0 = start
        z = z0 + planes[0][0]

        def read(fd: int) -> None:
            nonlocal z
            for i, (number, layout, first) in planes:
                z = z0 + i
                self._read_plane(fd, out[i], (number, layout, first), y0, x0)

        try:
            using(file, read)
        except DataError as error:
            raise DataError(f"slices: plane {z}: {error}") from error

    def _read_plane(
        self, fd: int, out: NDArray[Any], plane: tuple[int, int, int], y0: int, x0: int
    ) -> None:
        path, layout, first = self.files[plane[0]].path, self.layouts[plane[1]], plane[2]
        _, n_y, n_x = self.grid.shape
        if layout.segment is None:
            offset = int(self.segments[first, 0]) + y0 * n_x * out.itemsize
            read_rows(fd, path, out, offset, layout.stored, x0, n_x)
        else:
            down, across = (-(-n // m) for n, m in zip((n_y, n_x), layout.segment, strict=True))
            table = self.segments[first : first + down * across].reshape(down, across, 2)
            read_segments(fd, path, out, table, layout, y0, x0)


def open_slices(
    location: Location, spacing_um: Um | None = None, origin_um: Um = (0.0, 0.0, 0.0)
) -> SliceStack:
    """Return the planes of TIFF, PNG or JPEG 2000 files as a reader, axes ``z, y, x``.

    A folder or a pattern (``stack_*.tif``) is taken in natural order (z2 before z10), a list in
    its own. Every page of every file is a plane, but for reduced pages (pyramids, thumbnails).

    Values are those stored: bits and packed integers unfold into whole bytes without stretching
    (1 bit gives uint8 0 and 1), white-is-zero pages are not inverted, and a palette of greys
    gives its grey levels. Colour, colour palettes and alpha are refused.

    Parameters
    ----------
    location
        File, folder, pattern, or files; ``.tif .tiff .png .jp2 .j2k`` in any case, kinds not
        mixed. Other and hidden files of a folder are ignored.
    spacing_um
        Distance of voxel centres (z, y, x) in micrometers. None takes what ImageJ or OME metadata
        of the first file give for all three axes; the plain resolution of a TIFF or PNG (dpi) is
        not taken for a voxel size.
    origin_um
        Centre of the first voxel (z, y, x) in micrometers.

    Raises
    ------
    MissingError
        No such file or folder, or no slices in it.
    RequestError
        Unknown or mixed suffixes, no voxel size, colour, several channels or times, or planes
        that differ in shape or type; names the first such file.
    DataError
        A file is empty, truncated or not what its suffix says.

    Examples
    --------
    >>> import tempfile, tifffile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     for z in (1, 2, 10):
    ...         tifffile.imwrite(f"{folder}/z{z}.tif", np.full((2, 3), z, np.uint8))
    ...     stack = open_slices(folder, (1.17, 1.17, 1.17))
    ...     out = np.empty((3, 1, 1), np.uint8)
    ...     stack.read_into(out, (0, 1, 2))
    >>> stack.grid.shape, stack.dtype.name, stack.unit, out.ravel().tolist()
    ((3, 2, 3), 'uint8', (1, 1, 1), [1, 2, 10])
    """
    # Unless the application set up logging, remarks of tifffile would end up on stderr.
    logger = logging.getLogger("tifffile")
    if not logger.handlers:
        logger.addHandler(logging.NullHandler())
    kind, paths = find(location)
    warm(paths)
    described = describe_all(paths, kind)
    shape, dtype = _common(described)
    for look in sorted({look for _, pages in described for page in pages for look in page.looks}):
        warnings.warn(
            f"slices {location}: viewers {look}; voxels are taken as they are stored", stacklevel=2
        )
    spacing = spacing_um or spacing_of(paths[0], kind)
    grid = Grid((sum(len(pages) for _, pages in described), *shape), spacing, origin_um)
    layouts, planes, segments = _tables(described)
    files = tuple(file for file, _ in described)
    provenance = _provenance(kind, location, files, grid, dtype)
    return SliceStack(
        grid, dtype, _unit(layouts, shape), provenance, files, layouts, planes, segments
    )


def _common(described: list[Described]) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Return the shape and type that all planes share."""
    file, pages = described[0]
    shape, dtype = pages[0].shape, pages[0].dtype
    for other, others in described:
        for number, page in enumerate(others):
            if (page.shape, page.dtype) != (shape, dtype):
                raise RequestError(
                    f"slices: {page_name(other, number)} is {page.dtype} {page.shape} (y, x), but "
                    f"{file.path} is {dtype} {shape}; all planes need one shape and type"
                )
    return shape, dtype


def _tables(
    described: list[Described],
) -> tuple[tuple[Layout, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Return layouts, planes and segments of a stack as compact, quickly pickled tables."""
    layouts: dict[Layout, int] = {}
    planes, tables, first = [], [], 0
    for number, (_, pages) in enumerate(described):
        for page in pages:
            planes.append((number, layouts.setdefault(page.layout, len(layouts)), first))
            tables.append(page.segments)
            first += len(page.segments)
    return tuple(layouts), np.array(planes, np.int64), np.concatenate(tables)


def _unit(layouts: tuple[Layout, ...], shape: tuple[int, int]) -> Vox:
    segments = {layout.segment or (1, 1) for layout in layouts}
    rows, columns = segments.pop() if len(segments) == 1 else shape
    return 1, min(rows, shape[0]), min(columns, shape[1])


def _provenance(
    kind: str, location: Location, files: tuple[File, ...], grid: Grid, dtype: np.dtype[Any]
) -> dict[str, Any]:
    full = [os.path.abspath(file.path) for file in files]
    root = os.path.commonpath([os.path.dirname(path) for path in full])
    names = [path[len(root) :].lstrip(os.sep) for path in full]
    rows = [(name, f.size, f.mtime_ns) for name, f in zip(names, files, strict=True)]
    return {
        "kind": kind,
        "location": str(location) if isinstance(location, str | os.PathLike) else root,
        "n_files": len(files),
        "first_file": names[0],
        "last_file": names[-1],
        "shape": list(grid.shape),
        "dtype": dtype.name,
        "total_bytes": sum(f.size for f in files),
        "fingerprint": fingerprint(rows),
    }
