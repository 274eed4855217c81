"""From bytes on disk to voxels in the caller's memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError
from thc_dask.sources.slices.files import File
from thc_dask.sources.slices.headers import Layout

# Rows that are copied out of a wider page pass through a buffer that stays in the L2 cache.
SCRATCH_BYTES = 256 * 1024
# From this gap between two rows on, a system call a row is cheaper than reading the gap.
GAP_BYTES = 32 * 1024


def _fill(fd: int, path: str, out: NDArray[Any], offset: int) -> None:
    """Read bytes into contiguous memory; the GIL is free while the system copies."""
    done = os.preadv(fd, [out], offset)  # type: ignore[list-item]
    while done < out.nbytes:  # a call stops short of 2 GiB
        rest = out.reshape(-1).view(np.uint8)[done:]
        if not (n := os.preadv(fd, [rest], offset + done)):  # type: ignore[list-item]
            raise DataError(f"slices: {path} ends before byte {offset + out.nbytes}; copy it again")
        done += n


def read_plain(
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


def read_segments(
    fd: int,
    path: str,
    out: NDArray[Any],
    table: NDArray[np.int64],
    layout: Layout,
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


def _decode(layout: Layout, data: bytes, index: int) -> NDArray[Any]:
    """Return the pixels (y, x) of strip or tile ``index`` of a page."""
    if layout.sample is None:
        return _decode_png(data)
    block = _tiff_decoder(*layout.sample)(data, index)[0] if data else None
    if block is None:
        return np.broadcast_to(np.asarray(layout.nodata, layout.stored), layout.segment or ())
    plane: NDArray[Any] = block[0, :, :, 0]
    return plane if layout.levels is None else np.frombuffer(layout.levels, np.uint8)[plane]


@lru_cache(maxsize=256)
def _tiff_decoder(file: File, number: int) -> Callable[..., Any]:
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
