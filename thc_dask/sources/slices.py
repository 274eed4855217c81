"""TIFF and PNG: one file, a folder of slices, or stacks that follow one another, as a reader.

Uncompressed pages are read straight into the caller's memory; of compressed ones only the
strips or tiles that a block touches are decoded. Headers are read once, at opening.
"""

from __future__ import annotations

import glob
import itertools
import json
import logging
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, MissingError, RequestError, ThcError
from thc_dask.grid import MICRONS, Grid, Um, Vox

KINDS = {".tif": "tiff", ".tiff": "tiff", ".png": "png"}

Location = str | os.PathLike[str] | Sequence[str | os.PathLike[str]]

# Threads hide the latency of a network or a spinning disk; parsing itself gains nothing by them.
HEADER_THREADS = 8
# Rows that are copied out of a wider page pass through a buffer that stays in the L2 cache.
SCRATCH_BYTES = 256 * 1024
# From this gap between two rows on, a system call a row is cheaper than reading the gap.
GAP_BYTES = 32 * 1024


class _File(NamedTuple):
    path: str
    size: int
    mtime_ns: int


@dataclass(frozen=True)
class _Layout:
    """How the pages that share it lie on disk."""

    stored: np.dtype[Any]
    """Type and byte order on disk of plain pixels, type of decoded ones."""
    segment: tuple[int, int] | None = None
    """Rows and columns of a strip or tile to decode; None where the pixels lie plain."""
    levels: bytes | None = None
    """Grey level of each index of a palette."""
    nodata: float = 0
    """Value of segments that were never written."""
    signature: tuple[Any, ...] = ()
    """Pages with equal signatures are decoded alike."""
    sample: tuple[_File, int] | None = field(default=None, compare=False)
    """TIFF file and page whose tags say how to decode; None for PNG."""


class _Page(NamedTuple):
    shape: tuple[int, int]
    dtype: np.dtype[Any]
    layout: _Layout
    segments: NDArray[np.int64]
    """(n, 2): offset and size in bytes of each strip or tile."""


@dataclass(frozen=True, eq=False)
class SliceStack:
    """Planes of TIFF or PNG files as a ``Reader``: see ``open_slices``."""

    grid: Grid
    """Shape in voxels, spacing and origin in micrometers (z, y, x)."""
    dtype: np.dtype[Any]
    """Type of a voxel, in native byte order."""
    unit: Vox
    """What is decoded at once: a strip, a tile, a PNG; (1, 1, 1) where pixels lie plain."""
    provenance: dict[str, Any]
    """kind, location, files, shape, dtype, bytes on disk and a fingerprint of the files."""
    files: tuple[_File, ...] = field(repr=False)
    layouts: tuple[_Layout, ...] = field(repr=False)
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
        whole = self.grid.shape
        if (
            (out.dtype, out.ndim) != (self.dtype, 3)
            or min(start) < 0
            or any(a + n > m for a, n, m in zip(start, out.shape, whole, strict=True))
        ):
            raise RequestError(
                f"slices: cannot give {out.shape} {out.dtype} voxels from {start} on; there are "
                f"{whole} {self.dtype}"
            )
        z0, y0, x0 = start
        planes = enumerate(self.planes[z0 : z0 + len(out)].tolist() if out.size else [])
        for number, group in itertools.groupby(planes, lambda item: int(item[1][0])):
            with _opened(self.files[number]) as fd:
                for i, (_, layout, first) in group:
                    self._read_plane(fd, out[i], (number, layout, first), y0, x0)

    def _read_plane(
        self, fd: int, out: NDArray[Any], plane: tuple[int, int, int], y0: int, x0: int
    ) -> None:
        path, layout, first = self.files[plane[0]].path, self.layouts[plane[1]], plane[2]
        _, n_y, n_x = self.grid.shape
        if layout.segment is None:
            offset = int(self.segments[first, 0]) + y0 * n_x * out.itemsize
            _read_plain(fd, path, out, offset, layout.stored, x0, n_x)
        else:
            down, across = (-(-n // m) for n, m in zip((n_y, n_x), layout.segment, strict=True))
            table = self.segments[first : first + down * across].reshape(down, across, 2)
            _read_segments(fd, path, out, table, layout, y0, x0)


def open_slices(
    location: Location, spacing_um: Um | None = None, origin_um: Um = (0.0, 0.0, 0.0)
) -> SliceStack:
    """Return the planes of a TIFF or PNG file, folder, pattern or list, axes ``z, y, x``.

    A folder or a pattern (``stack_*.tif``) is taken in natural order (z2 before z10), a list in
    its own. Every page of every file is a plane, but for reduced pages (pyramids, thumbnails).

    Values are those stored: bits and packed integers of TIFF and PNG unfold into whole bytes
    without stretching (1 bit gives uint8 0 and 1), white-is-zero pages are not inverted, and a
    palette of greys gives its grey levels. Colour, colour palettes and alpha are refused.

    Parameters
    ----------
    location
        File, folder, pattern, or files; ``.tif .tiff .png`` in any case, not mixed. Other and
        hidden files of a folder are ignored.
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
    kind, paths = _find(location)
    _warm(paths)
    described = [_describe(path, kind) for path in paths]
    shape, dtype = _common(described)
    spacing = spacing_um or _spacing_of(paths[0], kind)
    grid = Grid((sum(len(pages) for _, pages in described), *shape), spacing, origin_um)
    layouts, planes, segments = _tables(described)
    files = tuple(file for file, _ in described)
    provenance = _provenance(kind, location, files, grid, dtype)
    return SliceStack(
        grid, dtype, _unit(layouts, shape), provenance, files, layouts, planes, segments
    )


def _find(location: Location) -> tuple[str, list[Path]]:
    """Return the one kind that all files have, and the files in order."""
    if isinstance(location, str | os.PathLike):
        paths = _find_at(Path(location))
    else:
        paths = [Path(item) for item in location]
    allowed = ", ".join(KINDS)
    if not paths:
        raise MissingError(f"slices: no files {allowed} in {location}")
    firsts = {KINDS.get(path.suffix.lower()): path for path in reversed(paths)}
    if None in firsts:
        odd = firsts[None]
        raise RequestError(f"slices: {odd} has suffix {odd.suffix!r}; allowed: {allowed}")
    if len(firsts) > 1:
        raise RequestError(
            f"slices: PNG and TIFF are mixed: {firsts['png']} and {firsts['tiff']}; "
            "give a pattern such as '*.tif'"
        )
    return str(*firsts), paths


def _find_at(path: Path) -> list[Path]:
    if path.is_dir():
        found = _in_folder(path)
    elif path.exists():
        return [path]
    elif any(c in "*?[" for c in str(path)):
        found = [Path(name) for name in glob.glob(str(path))]
    else:
        raise MissingError(f"slices: no such file or folder: {path}; check the path")
    return sorted(found, key=_natural)


def _in_folder(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            names = [e.name for e in entries if e.name[0] != "." and e.is_file()]
    except OSError as error:
        raise DataError(f"slices: cannot list {folder}: {error.strerror}") from error
    return [folder / name for name in names if os.path.splitext(name)[1].lower() in KINDS]


def _natural(path: Path) -> tuple[list[tuple[int, str]], str]:
    """Order numbers within names by value."""
    parts = re.split(r"([0-9]+)", str(path).casefold())
    return [(int(p), "") if i % 2 else (-1, p) for i, p in enumerate(parts)], path.name


def _warm(paths: list[Path]) -> None:
    """Bring both ends of the files, where headers are, into the page cache, many at once."""

    def warm(part: list[Path]) -> None:
        for path in part:
            with suppress(OSError), open(path, "rb", buffering=0) as file:
                file.read(4096)
                file.seek(-1, os.SEEK_END)
                file.read(1)

    if len(paths) >= HEADER_THREADS:
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(HEADER_THREADS) as pool:
            list(pool.map(warm, (paths[i::HEADER_THREADS] for i in range(HEADER_THREADS))))


_Described = tuple[_File, list[_Page]]


def _describe(path: Path, kind: str) -> _Described:
    try:
        stat = path.stat()
        file = _File(str(path), stat.st_size, stat.st_mtime_ns)
        if not file.size:
            raise DataError(f"slices: {path} is empty (0 bytes); copy it again")
        return file, _describe_png(file) if kind == "png" else _describe_tiff(file)
    except FileNotFoundError as error:
        raise MissingError(f"slices: no such file: {path}; check the path") from error
    except OSError as error:
        raise DataError(f"slices: cannot read {path}: {error.strerror or error}") from error


def _common(described: list[_Described]) -> tuple[tuple[int, int], np.dtype[Any]]:
    """Return the shape and type that all planes share."""
    file, pages = described[0]
    shape, dtype = pages[0].shape, pages[0].dtype
    for other, others in described:
        for number, page in enumerate(others):
            if (page.shape, page.dtype) != (shape, dtype):
                raise RequestError(
                    f"slices: {_page_name(other, number)} is {page.dtype} {page.shape} (y, x), but "
                    f"{file.path} is {dtype} {shape}; all planes need one shape and type"
                )
    return shape, dtype


def _tables(
    described: list[_Described],
) -> tuple[tuple[_Layout, ...], NDArray[np.int64], NDArray[np.int64]]:
    """Return layouts, planes and segments of a stack as compact, quickly pickled tables."""
    layouts: dict[_Layout, int] = {}
    planes, tables, first = [], [], 0
    for number, (_, pages) in enumerate(described):
        for page in pages:
            planes.append((number, layouts.setdefault(page.layout, len(layouts)), first))
            tables.append(page.segments)
            first += len(page.segments)
    return tuple(layouts), np.array(planes, np.int64), np.concatenate(tables)


def _unit(layouts: tuple[_Layout, ...], shape: tuple[int, int]) -> Vox:
    segments = {layout.segment or (1, 1) for layout in layouts}
    rows, columns = segments.pop() if len(segments) == 1 else shape
    return 1, min(rows, shape[0]), min(columns, shape[1])


def _provenance(
    kind: str, location: Location, files: tuple[_File, ...], grid: Grid, dtype: np.dtype[Any]
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
        "fingerprint": blake2b(json.dumps(rows).encode(), digest_size=16).hexdigest(),
    }


def _describe_tiff(file: _File) -> list[_Page]:
    import tifffile

    try:
        # Files that OME and MicroManager metadata mention are not looked at: each stands alone.
        with tifffile.TiffFile(file.path, is_ome=False, is_mmstack=False) as tif:
            chain: Any = tif.pages
            pages = [page for page in chain if not page.is_reduced]
            _check_chain(file, tif, len(pages))
            described = [_describe_page(file, page) for page in pages]
            n = _n_planes(file, tif, pages)
    except (ThcError, OSError):
        raise
    except Exception as error:  # a damaged header can fail anywhere in the parser
        reason = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"slices: {file.path} is not a readable TIFF: {reason}") from error
    if n > len(described) == 1:
        described = _unfold(file, described[0], n)
    for number, page in enumerate(described):
        end = int(page.segments.sum(axis=1).max(initial=0))
        if end > file.size:
            raise DataError(
                f"slices: {_page_name(file, number)} is truncated: it ends at byte {end}, the file "
                f"at {file.size}; copy it again"
            )
    return described


def _page_name(file: _File, number: int) -> str:
    return f"page {number} of {file.path}" if number else file.path


def _check_chain(file: _File, tif: Any, n_pages: int) -> None:
    """Refuse a file that ends before the page that its last page announces."""
    pointer = b""
    if n_pages:
        tif.filehandle.seek(tif.pages.next_page_offset)
        pointer = tif.filehandle.read(tif.tiff.offsetsize)
    if len(pointer) < tif.tiff.offsetsize or any(pointer):
        raise DataError(
            f"slices: {file.path} is truncated: more than its {n_pages} whole pages are announced; "
            "copy it again"
        )


def _describe_page(file: _File, page: Any) -> _Page:
    name = _page_name(file, page.index)
    if page.samplesperpixel != 1 or page.ndim != 2:
        axes = " ".join(f"{a}={n}" for a, n in zip(page.axes, page.shape, strict=True))
        raise RequestError(
            f"slices: {name} is a colour or multi-channel image ({axes}); convert it to grey first"
        )
    if page.dtype is None or page.dtype.kind not in "buif" or 0 in page.shape:
        raise RequestError(
            f"slices: {name} holds {page.shape} pixels of {page.bitspersample} bits, sample format "
            f"{int(page.sampleformat)}; allowed: integers and floats, at least one pixel"
        )
    levels = _grey_levels(name, page)
    if page.is_contiguous and page.is_final and levels is None:
        plain = _Layout(page.dtype.newbyteorder(page.parent.byteorder))
        table = np.array([[page.dataoffsets[0], page.nbytes]], np.int64)
        return _Page(page.shape, page.dtype, plain, table)
    y, x = page.shape
    small = levels is not None or page.dtype.kind == "b"
    dtype = np.dtype(np.uint8) if small else page.dtype
    segment = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, x)
    signature = (page.hash, page.jpegtables, page.jpegheader)
    layout = _Layout(dtype, segment, levels, page.nodata, signature, (file, page.index))
    table = np.array([page.dataoffsets, page.databytecounts], np.int64).T
    table[table[:, 0] == 0, 1] = 0
    if len(table) != math.ceil(y / segment[0]) * math.ceil(x / segment[1]):
        raise DataError(f"slices: {name} lists {len(table)} strips or tiles, too few or too many")
    return _Page(page.shape, dtype, layout, table)


def _grey_levels(name: str, page: Any) -> bytes | None:
    """Return the grey levels of a palette page; None where a pixel is its own level."""
    if page.photometric != 3:
        return None
    levels = np.asarray(page.colormap)
    if page.bitspersample > 8 or (levels != levels[0]).any():
        raise RequestError(
            f"slices: {name} has a colour palette, so its values are not grey levels; save it "
            "without (ImageJ: Image > Lookup Tables > Grays)"
        )
    # Some writers store 8-bit levels where the format asks for 16 bits.
    grey = (levels[0] >> 8 if levels.max() > 255 else levels[0]).astype(np.uint8)
    return None if np.array_equal(grey, np.arange(len(grey))) else grey.tobytes()


def _n_planes(file: _File, tif: Any, pages: list[Any]) -> int:
    """Return how many planes the metadata speak of: a page can stand for many."""
    axes: list[tuple[str, int]] = []
    if pages[0].is_ome:
        images = _ome_pixels(pages[0])
        if len(images) != 1:
            raise RequestError(f"slices: {file.path} holds {len(images)} images; save one alone")
        axes = [(axis, int(images[0][f"Size{axis}"])) for axis in "TCZ"]
    elif tif.is_imagej:
        meta = tif.imagej_metadata
        axes = [("T", meta.get("frames", 1)), ("C", meta.get("channels", 1))]
        axes += [("Z", meta.get("slices", meta.get("images", 1)))]
    elif tif.is_shaped or len(pages) == 1:
        axes = list(zip(tif.series[0].axes, tif.series[0].shape, strict=True))
    axes = [(axis, n) for axis, n in axes if n > 1 and axis not in "YX"]
    if len(axes) > 1 or any(axis not in "ZIQ" for axis, _ in axes):
        sizes = " ".join(f"{axis}={n}" for axis, n in axes)
        raise RequestError(
            f"slices: {file.path} has the axes {sizes} besides y, x; only z is allowed: save one "
            "channel of one time alone"
        )
    # Of an OME set of files each holds a part of the planes.
    return 1 if pages[0].is_ome or not axes else axes[0][1]


def _unfold(file: _File, page: _Page, n: int) -> list[_Page]:
    """Return the planes that follow one another behind a single page."""
    if page.layout.segment is not None:
        raise DataError(
            f"slices: {file.path} announces {n} planes but holds one; save it again, a page a plane"
        )
    ((offset, size),) = page.segments.tolist()
    tables = (np.array([[offset + i * size, size]], np.int64) for i in range(n))
    return [page._replace(segments=table) for table in tables]


def _describe_png(file: _File) -> list[_Page]:
    with open(file.path, "rb") as handle:
        head = handle.read(33)
        if len(head) < 33 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
            raise DataError(
                f"slices: {file.path} is not a PNG, or its header is cut; copy it again"
            )
        x, y, depth, color = (int.from_bytes(head[a:b], "big") for a, b in PNG_FIELDS)
        if color not in (0, 3) or (color == 3 and not _is_grey(handle.read)):
            kind = {2: "RGB", 3: "colour palette", 4: "grey and alpha", 6: "RGBA"}.get(color)
            raise RequestError(
                f"slices: {file.path} is a colour or multi-channel image ({kind}); convert it to "
                "grey first"
            )
    dtype = np.dtype(np.uint16 if depth == 16 else np.uint8)
    return [_Page((y, x), dtype, _Layout(dtype, (y, x)), np.array([[0, file.size]], np.int64))]


# Bytes of width, height, bit depth and colour type.
PNG_FIELDS = ((16, 20), (20, 24), (24, 25), (25, 26))


def _is_grey(read: Callable[[int], bytes]) -> bool:
    """Whether the palette that follows the header of a PNG holds greys only."""
    while len(head := read(8)) == 8:
        data = read(int.from_bytes(head[:4], "big") + 4)[:-4]
        if head[4:] == b"PLTE":
            return data[::3] == data[1::3] == data[2::3]
    return False


def _spacing_of(path: Path, kind: str) -> Um:
    import tifffile

    sizes: list[float] = []
    if kind == "tiff":
        with tifffile.TiffFile(path, is_ome=False) as tif:
            page: Any = tif.pages.first
            if page.is_ome:
                sizes = _ome_spacing(_ome_pixels(page)[0])
            elif tif.is_imagej:
                sizes = _imagej_spacing(tif.imagej_metadata or {}, page)
    if not sizes or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise RequestError(f"slices: no voxel size in {path}; give it as --spacing 1.17um")
    return sizes[0], sizes[1], sizes[2]


def _length_um(value: float, unit: str) -> float:
    """Return micrometers; 0 where the unit is not one of length, such as ``pixel``."""
    unit = unit.replace("\\u00B5", "µ").removesuffix("s")
    return value / 1000 if unit == "nm" else value * MICRONS.get(unit, 0)


def _ome_pixels(page: Any) -> list[dict[str, str]]:
    """Return the attributes of each Pixels element of the OME-XML."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(page.description)
    return [dict(e.attrib) for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"]


def _ome_spacing(pixels: dict[str, str]) -> list[float]:
    keys = [f"PhysicalSize{axis}" for axis in "ZYX"]
    return [_length_um(float(pixels.get(k, 0)), pixels.get(f"{k}Unit", "µm")) for k in keys]


def _imagej_spacing(meta: dict[str, Any], page: Any) -> list[float]:
    def pixel(code: int) -> float:
        n, per = page.tags.valueof(code) or (0, 0)
        # ImageJ keeps six decimals of pixels per unit: more digits than that are noise.
        return float(f"{per / n:.6g}") if n else 0.0

    unit = str(meta.get("unit", ""))
    return [_length_um(v, unit) for v in (float(meta.get("spacing", 0)), pixel(283), pixel(282))]


@contextmanager
def _opened(file: _File) -> Iterator[int]:
    try:
        fd = os.open(file.path, os.O_RDONLY)
    except OSError as error:
        raise DataError(
            f"slices: {file.path} was there at opening, now: {error.strerror}"
        ) from error
    try:
        stat = os.fstat(fd)
        if (stat.st_size, stat.st_mtime_ns) != file[1:]:
            raise DataError(f"slices: {file.path} has changed since it was opened; open it again")
        yield fd
    except OSError as error:
        raise DataError(f"slices: cannot read {file.path}: {error.strerror}") from error
    finally:
        os.close(fd)


def _fill(fd: int, path: str, out: NDArray[Any], offset: int) -> None:
    """Read bytes into contiguous memory; the GIL is free while the system copies."""
    done = os.preadv(fd, [out], offset)  # type: ignore[list-item]
    while done < out.nbytes:  # a call stops short of 2 GiB
        rest = out.reshape(-1).view(np.uint8)[done:]
        if not (n := os.preadv(fd, [rest], offset + done)):  # type: ignore[list-item]
            raise DataError(f"slices: {path} ends before byte {offset + out.nbytes}; copy it again")
        done += n


def _read_plain(
    fd: int, path: str, out: NDArray[Any], offset: int, stored: np.dtype[Any], x0: int, n_x: int
) -> None:
    """Read rows (y, x) of an uncompressed page; ``offset`` is that of the first row's start."""
    n_rows, width = out.shape
    if width == n_x and out.flags.c_contiguous and stored == out.dtype:
        return _fill(fd, path, out, offset)
    row_bytes = n_x * stored.itemsize
    step = max(1, SCRATCH_BYTES // row_bytes)
    if (n_x - width) * stored.itemsize >= GAP_BYTES:
        offset, x0, n_x, step = offset + x0 * stored.itemsize, 0, width, 1
    scratch = np.empty((min(step, n_rows), n_x), stored)
    for row in range(0, n_rows, step):
        part = scratch[: n_rows - row]
        _fill(fd, path, part, offset + row * row_bytes)
        np.copyto(out[row : row + step], part[:, x0 : x0 + width])
    return None


def _read_segments(
    fd: int,
    path: str,
    out: NDArray[Any],
    table: NDArray[np.int64],
    layout: _Layout,
    y0: int,
    x0: int,
) -> None:
    """Decode each strip or tile that ``out`` (y, x) touches, once, and copy its part."""
    rows, columns = layout.segment or (1, 1)
    y1, x1 = y0 + out.shape[0], x0 + out.shape[1]
    touched = range(y0 // rows, -(-y1 // rows)), range(x0 // columns, -(-x1 // columns))
    for j, i in itertools.product(*touched):
        offset, size = table[j, i].tolist()
        data = os.pread(fd, size, offset)
        try:
            block = _decode(layout, data, j * table.shape[1] + i)
        except Exception as error:  # every codec has an error of its own
            reason = " ".join(str(error).split())
            raise DataError(f"slices: {path} cannot be decoded, it is damaged: {reason}") from error
        top, left = j * rows, i * columns
        ys = slice(max(y0, top), min(y1, top + rows))
        xs = slice(max(x0, left), min(x1, left + columns))
        part = block[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]
        np.copyto(out[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0], part)


def _decode(layout: _Layout, data: bytes, index: int) -> NDArray[Any]:
    """Return the pixels (y, x) of strip or tile ``index`` of a page."""
    if layout.sample is None:
        return _decode_png(data)
    block = _tiff_decoder(*layout.sample)(data, index)[0] if data else None
    if block is None:
        return np.broadcast_to(np.asarray(layout.nodata, layout.stored), layout.segment or ())
    plane: NDArray[Any] = block[0, :, :, 0]
    return plane if layout.levels is None else np.frombuffer(layout.levels, np.uint8)[plane]


@lru_cache(maxsize=256)
def _tiff_decoder(file: _File, number: int) -> Callable[..., Any]:
    """Return what decodes the strips or tiles of pages like this one."""
    import tifffile

    with tifffile.TiffFile(file.path, is_ome=False) as tif:
        page: Any = tif.pages[number]
        return partial(page.decode, jpegtables=page.jpegtables, jpegheader=page.jpegheader)


def _decode_png(data: bytes) -> NDArray[Any]:
    import imagecodecs

    image = imagecodecs.png_decode(data)
    # A palette or a transparent grey unfolds into equal channels.
    grey: NDArray[Any] = image if image.ndim == 2 else image[..., 0]
    depth, color = data[24], data[25]
    return grey // np.uint8(255 // (2**depth - 1)) if color == 0 and depth < 8 else grey
