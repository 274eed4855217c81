"""What the headers of files say: shape, type and place of every page."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError, ThcError
from thc_dask.files import File, look_at
from thc_dask.retry import persist
from thc_dask.sources.slices.images import read_header
from thc_dask.sources.slices.spacing import ome_pixels


@dataclass(frozen=True)
class Layout:
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
    sample: tuple[File, int] | None = field(default=None, compare=False)
    """TIFF file and page whose tags say how to decode them."""
    image: str = ""
    """``png`` or ``jpeg2000`` where the whole file is one image to decode."""


class Page(NamedTuple):
    """One plane of a file."""

    shape: tuple[int, int]
    dtype: np.dtype[Any]
    layout: Layout
    segments: NDArray[np.int64]
    """(n, 2): offset and size in bytes of each strip or tile."""
    looks: tuple[str, ...] = ()
    """What viewers make of it that is not done here."""


Described = tuple[File, list[Page]]


def describe(path: Path, kind: str) -> Described:
    """Return a file and its pages, from its headers alone."""
    return persist(lambda: _describe(path, kind), str(path))


@dataclass(frozen=True)
class Twin:
    """What a TIFF of one plain page holds beside its pixels.

    A file of the same size that holds the same is described alike, a tenth of the work of reading
    its tags one by one.
    """

    size: int
    pixels: tuple[int, int]
    """Where they begin and end in the file."""
    head: bytes
    tail: bytes
    pages: list[Page]

    @classmethod
    def of(cls, described: Described) -> Twin | None:
        """Return what to hold other files against; None where the file has more or coded pages."""
        file, pages = described
        if len(pages) != 1 or pages[0].layout.segment is not None:
            return None
        ((start, n_bytes),) = pages[0].segments.tolist()
        stop = start + n_bytes
        if start + file.size - stop > TWIN_BYTES:
            return None
        try:
            with open(file.path, "rb", buffering=0) as opened:
                ends = _ends(opened.fileno(), start, stop, file.size)
        except OSError:
            return None  # the next file is read tag by tag, as this one was
        return cls(file.size, (start, stop), *ends, pages)

    def describe(self, path: Path) -> Described | None:
        """Return a file and its pages if it is a twin, else None."""
        try:
            file = look_at(path, "slices")
            if file.size != self.size:
                return None
            with open(path, "rb", buffering=0) as opened:
                ends = _ends(opened.fileno(), *self.pixels, self.size)
        except (ThcError, OSError):
            return None  # whoever reads its tags says what is wrong
        return (file, self.pages) if ends == (self.head, self.tail) else None


ORIENTATION, WHITE_IS_ZERO = 274, 0  # a tag, and a value of PhotometricInterpretation
TWIN_BYTES = 2**16  # beside pixels: more is read tag by tag


def _ends(fd: int, start: int, stop: int, size: int) -> tuple[bytes, bytes]:
    return os.pread(fd, start, 0), os.pread(fd, size - stop, stop)


def describe_all(paths: Sequence[Path], kind: str) -> list[Described]:
    """Return files and their pages, from their headers alone."""
    found: list[Described] = []
    twin: Twin | None = None
    for path in paths:
        described = twin.describe(path) if twin is not None else None
        if described is None:
            described = describe(path, kind)
            twin = Twin.of(described) if kind == "tiff" else None
        found.append(described)
    return found


def _describe(path: Path, kind: str) -> Described:
    file = look_at(path, "slices")
    try:
        return file, _describe_tiff(file) if kind == "tiff" else _describe_image(file, kind)
    except OSError as error:
        raise DataError(f"slices: cannot read {path}: {error.strerror or error}") from error


def _describe_tiff(file: File) -> list[Page]:
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
                f"slices: {page_name(file, number)} is truncated: it ends at byte {end}, the file "
                f"at {file.size}; copy it again"
            )
    return described


def page_name(file: File, number: int) -> str:
    """Return what to call a page in an error."""
    return f"page {number} of {file.path}" if number else file.path


def _check_chain(file: File, tif: Any, n_pages: int) -> None:
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


def _describe_page(file: File, page: Any) -> Page:
    name = page_name(file, page.index)
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
    looks = _looks(page)
    levels = _grey_levels(name, page)
    if page.is_contiguous and page.is_final and levels is None:
        plain = Layout(page.dtype.newbyteorder(page.parent.byteorder))
        table = np.array([[page.dataoffsets[0], page.nbytes]], np.int64)
        return Page(page.shape, page.dtype, plain, table, looks)
    y, x = page.shape
    small = levels is not None or page.dtype.kind == "b"
    dtype = np.dtype(np.uint8) if small else page.dtype
    segment = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, x)
    signature = (page.hash, page.jpegtables, page.jpegheader)
    layout = Layout(dtype, segment, levels, page.nodata, signature, (file, page.index))
    table = np.array([page.dataoffsets, page.databytecounts], np.int64).T
    table[table[:, 0] == 0, 1] = 0
    if len(table) != math.ceil(y / segment[0]) * math.ceil(x / segment[1]):
        raise DataError(f"slices: {name} lists {len(table)} strips or tiles, too few or too many")
    return Page(page.shape, dtype, layout, table, looks)


def _looks(page: Any) -> tuple[str, ...]:
    """Return what viewers make of a page that is not how its pixels are stored."""
    turned = page.tags.valueof(ORIENTATION, 1)
    found = [] if turned == 1 else [f"turn or mirror them (TIFF Orientation {turned})"]
    if page.photometric == WHITE_IS_ZERO:
        found.append("show 0 as white (TIFF WhiteIsZero)")
    return tuple(found)


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


def _n_planes(file: File, tif: Any, pages: list[Any]) -> int:
    """Return how many planes the metadata speak of: a page can stand for many."""
    axes: list[tuple[str, int]] = []
    if pages[0].is_ome:
        images = ome_pixels(pages[0])
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


def _unfold(file: File, page: Page, n: int) -> list[Page]:
    """Return the planes that follow one another behind a single page."""
    if page.layout.segment is not None:
        raise DataError(
            f"slices: {file.path} announces {n} planes but holds one; save it again, a page a plane"
        )
    ((offset, size),) = page.segments.tolist()
    tables = (np.array([[offset + i * size, size]], np.int64) for i in range(n))
    return [page._replace(segments=table) for table in tables]


def _describe_image(file: File, kind: str) -> list[Page]:
    shape, dtype = read_header(file, kind)
    layout = Layout(dtype, shape, image=kind)
    return [Page(shape, dtype, layout, np.array([[0, file.size]], np.int64))]
