"""From strips, tiles and whole images to voxels in the caller's memory."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError
from thc_dask.files import File
from thc_dask.sources.slices.headers import Layout
from thc_dask.sources.slices.images import decode_image


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
            raise DataError(f"{path} cannot be decoded, it is damaged: {reason}") from error
        top, left = j * rows, i * columns
        ys = slice(max(y0, top), min(y1, top + rows))
        xs = slice(max(x0, left), min(x1, left + columns))
        part = block[ys.start - top : ys.stop - top, xs.start - left : xs.stop - left]
        np.copyto(out[ys.start - y0 : ys.stop - y0, xs.start - x0 : xs.stop - x0], part)


def _decode(layout: Layout, data: bytes, index: int) -> NDArray[Any]:
    """Return the pixels (y, x) of strip or tile ``index`` of a page."""
    if layout.sample is None:
        image = decode_image(layout.image, data)
        if image.shape != layout.segment:
            raise ValueError(f"{image.shape} pixels instead of {layout.segment}")
        return image
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
