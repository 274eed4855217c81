"""PNG and JPEG 2000: files of one image that is decoded whole."""

from __future__ import annotations

import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import DataError, RequestError
from thc_dask.files import File

JP2 = b"\0\0\0\x0cjP  \r\n\x87\n"
CODESTREAM = b"\xff\x4f\xff\x51"  # start, then the marker of the sizes
END = b"\xff\xd9"
# Bytes of width, height, bit depth and colour type in a PNG.
PNG_FIELDS = ((16, 20), (20, 24), (24, 25), (25, 26))

Header = tuple[tuple[int, int], np.dtype[Any]]


def read_header(file: File, kind: str) -> Header:
    """Return shape (y, x) and type of the pixels of a ``png`` or ``jpeg2000`` file."""
    with open(file.path, "rb") as handle:
        return _png(file, handle) if kind == "png" else _jpeg2000(file, handle)


def decode_image(kind: str, data: bytes) -> NDArray[Any]:
    """Return the pixels (y, x) of a whole file."""
    return _decode_png(data) if kind == "png" else _decode_jpeg2000(data)


def _no_grey(file: File, what: str) -> RequestError:
    return RequestError(
        f"slices: {file.path} is a colour or multi-channel image ({what}); convert it to grey first"
    )


def _png(file: File, handle: BinaryIO) -> Header:
    head = handle.read(33)
    if len(head) < 33 or head[:8] != b"\x89PNG\r\n\x1a\n" or head[12:16] != b"IHDR":
        raise DataError(f"slices: {file.path} is not a PNG, or its header is cut; copy it again")
    x, y, depth, color = (int.from_bytes(head[a:b], "big") for a, b in PNG_FIELDS)
    if color not in (0, 3) or (color == 3 and not _is_grey(handle)):
        kind = {2: "RGB", 3: "colour palette", 4: "grey and alpha", 6: "RGBA"}.get(color)
        raise _no_grey(file, str(kind))
    return (y, x), np.dtype(np.uint16 if depth == 16 else np.uint8)


def _is_grey(handle: BinaryIO) -> bool:
    """Whether the palette that follows the header of a PNG holds greys only."""
    while len(head := handle.read(8)) == 8:
        data = handle.read(int.from_bytes(head[:4], "big") + 4)[:-4]
        if head[4:] == b"PLTE":
            return data[::3] == data[1::3] == data[2::3]
    return False


def _decode_png(data: bytes) -> NDArray[Any]:
    import imagecodecs

    image = imagecodecs.png_decode(data)
    # A palette or a transparent grey unfolds into equal channels.
    grey: NDArray[Any] = image if image.ndim == 2 else image[..., 0]
    depth, color = data[24], data[25]
    return grey // np.uint8(255 // (2**depth - 1)) if color == 0 and depth < 8 else grey


def _jpeg2000(file: File, handle: BinaryIO) -> Header:
    start, end = _codestream(file, handle)
    handle.seek(start)
    head = handle.read(45)
    if len(head) < 45 or head[:4] != CODESTREAM:
        raise DataError(f"slices: {file.path} is not a JPEG 2000 image; copy it again")
    handle.seek(end - len(END))
    # A decoder may make a blurred image of a part of the file; that must not pass for the data.
    if end > file.size or handle.read(len(END)) != END:
        raise DataError(f"slices: {file.path} is truncated: its image has no end; copy it again")
    x1, y1, x0, y0 = struct.unpack(">4I", head[8:24])
    channels, sample, step_x, step_y = struct.unpack(">HBBB", head[40:45])
    if channels != 1:
        raise _no_grey(file, f"{channels} channels")
    bits, sign = (sample & 0x7F) + 1, "iu"[sample < 0x80]
    if bits > 32 or not step_x or not step_y:
        raise DataError(f"slices: {file.path}: pixels of {bits} bits; up to 32 can be read")
    shape = (-(-y1 // step_y) - -(-y0 // step_y), -(-x1 // step_x) - -(-x0 // step_x))
    return shape, np.dtype(f"{sign}{1 if bits <= 8 else 2 if bits <= 16 else 4}")


def _codestream(file: File, handle: BinaryIO) -> tuple[int, int]:
    """Return the first byte of the compressed image and the one past its last."""
    if handle.read(len(JP2)) != JP2:
        return 0, file.size
    at = len(JP2)
    while True:
        handle.seek(at)
        head = handle.read(16)
        if len(head) < 8:
            raise DataError(f"slices: {file.path} is truncated: it holds no image; copy it again")
        n, kind = struct.unpack(">I4s", head[:8])
        inside = 8
        if n == 1 and len(head) == 16:
            n, inside = int.from_bytes(head[8:], "big"), 16
        n = n or file.size - at  # 0: to the end of the file
        if kind == b"jp2c":
            return at + inside, at + n
        if kind == b"pclr":
            raise _no_grey(file, "colour palette")
        # The header box holds the palette's; every other box is stepped over.
        at += inside if kind == b"jp2h" else max(n, 8)


def _decode_jpeg2000(data: bytes) -> NDArray[Any]:
    import imagecodecs

    # The callers are the threads: more of them inside each would compete.
    plane: NDArray[Any] = imagecodecs.jpeg2k_decode(data, numthreads=1)
    return plane
