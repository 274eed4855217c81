"""The zstd library itself, where machine code can call it: functions by address, and contexts.

The package ``zstandard`` brings the library and, beside its own functions, a plain binding to it.
Beside it stands what decodes frames of literals alone, which the library does one block after the
other (``compiled``).
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

import numpy as np
import zstandard
from numpy.typing import NDArray

from thc_dask.native import address

COMPILED = "thc_dask.store.zstd.compiled"
ROOM_BYTES = 16384  # of memory that decoding literals takes

Parameters = tuple[tuple[str, int], ...]

N_SAMPLES = 512  # words that tell whether a chunk repeats itself
ONE_IN = 32  # so many of them equal to another: it does
GOLDEN = 0x9E3779B97F4A7C15  # 2^64 over the golden ratio: the top bits of a product are a hash


@cache
def _binding() -> Any:
    try:
        from zstandard._cffi import ffi, lib  # type: ignore[import-not-found]
    except ImportError:  # it was built without
        return None
    return ffi, lib


class _Contexts(threading.local):
    """What each thread decodes and compresses in."""

    def __init__(self) -> None:
        self.literals: NDArray[np.int64] | None = None
        self.decode: Any = None
        self.encode: dict[Parameters, Any] = {}
        self.compressors: dict[tuple[Parameters, ...], tuple[int, ...]] = {}
        self.package: dict[Parameters, zstandard.ZstdCompressor] = {}


_contexts = _Contexts()


def is_callable() -> bool:
    """Whether the library can be called by address."""
    return _binding() is not None


def literals() -> tuple[int, int]:
    """Return the address of what decodes large frames of literals alone, and of its memory."""
    if _contexts.literals is None:
        _contexts.literals = np.empty(ROOM_BYTES // 8, np.int64)
    return address(COMPILED, "decompress"), _contexts.literals.ctypes.data


def decompressor() -> tuple[int, int]:
    """Return the address of ``ZSTD_decompressDCtx`` and of this thread's context."""
    ffi, lib = _binding()
    if _contexts.decode is None:
        _contexts.decode = ffi.gc(lib.ZSTD_createDCtx(), lib.ZSTD_freeDCtx)
    return _address(ffi.addressof(lib, "ZSTD_decompressDCtx")), _address(_contexts.decode)


def compressor(*parameters: Parameters) -> tuple[int, ...]:
    """Return the address of ``ZSTD_compress2``, and of this thread's context for each parameters.

    These are pairs of a name, as in ``ZSTD_c_windowLog`` without the first part, and a number.
    Where there are none, the context is 0.
    """
    if parameters not in _contexts.compressors:
        ffi, lib = _binding()
        contexts = (_address(_context(some)) if some else 0 for some in parameters)
        function = _address(ffi.addressof(lib, "ZSTD_compress2"))
        _contexts.compressors[parameters] = function, *contexts
    return _contexts.compressors[parameters]


def compress(parameters: Parameters, data: memoryview) -> bytes:
    """Return a frame of ``data``."""
    if not is_callable():
        return _package(parameters).compress(data)
    ffi, lib = _binding()
    room = lib.ZSTD_compressBound(data.nbytes)
    frame = bytearray(room)
    given = ffi.from_buffer(frame), room, ffi.from_buffer(data), data.nbytes
    n = lib.ZSTD_compress2(_context(parameters), *given)
    if lib.ZSTD_isError(n):
        raise MemoryError("zstd could not compress a chunk")
    return bytes(memoryview(frame)[:n])


def _package(parameters: Parameters) -> zstandard.ZstdCompressor:
    """Return the package's own compressor of this thread for ``parameters``."""
    if parameters not in _contexts.package:
        options = {_snake(name): value for name, value in parameters}
        level = options.pop("compression_level", None)
        if level is not None:
            made = zstandard.ZstdCompressor(level, write_content_size=True)
        else:
            given = zstandard.ZstdCompressionParameters(**options, write_content_size=1)
            made = zstandard.ZstdCompressor(compression_params=given)
        _contexts.package[parameters] = made
    return _contexts.package[parameters]


def _snake(name: str) -> str:
    """Return a name of the library as its Python package writes it."""
    return "".join(f"_{a.lower()}" if a.isupper() else a for a in name)


def repeats(data: memoryview) -> bool:
    """Whether bytes probably repeat themselves: some of the words in them are equal."""
    words = np.frombuffer(data, np.uint64, data.nbytes // 8)
    n = min(len(words), N_SAMPLES)
    if n == 0:
        return False
    hashes = (words[:: len(words) // n][:n] * np.uint64(GOLDEN)) >> np.uint64(48)
    hashes.sort()  # numpy.unique would import numpy.ma
    return ONE_IN * int(np.count_nonzero(hashes[1:] == hashes[:-1])) > n


def _context(parameters: Parameters) -> Any:
    """Return this thread's context for ``parameters``."""
    ffi, lib = _binding()
    if parameters not in _contexts.encode:
        context = ffi.gc(lib.ZSTD_createCCtx(), lib.ZSTD_freeCCtx)
        for name, value in parameters:
            done = lib.ZSTD_CCtx_setParameter(context, getattr(lib, f"ZSTD_c_{name}"), value)
            if lib.ZSTD_isError(done):
                why = ffi.string(lib.ZSTD_getErrorName(done)).decode()
                raise ValueError(f"zstd: {name} = {value}: {why}")
        _contexts.encode[parameters] = context
    return _contexts.encode[parameters]


def _address(pointer: Any) -> int:
    ffi, _ = _binding()
    return int(ffi.cast("uintptr_t", pointer))
