"""The zstd library itself, where machine code can call it: functions by address, and contexts.

The package ``zstandard`` brings the library and, beside its own functions, a plain binding to it.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any

Parameters = tuple[tuple[str, int], ...]


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
        self.decode: Any = None
        self.encode: dict[Parameters, Any] = {}


_contexts = _Contexts()


def is_callable() -> bool:
    """Whether the library can be called by address."""
    return _binding() is not None


def decompressor() -> tuple[int, int]:
    """Return the address of ``ZSTD_decompressDCtx`` and of this thread's context."""
    ffi, lib = _binding()
    if _contexts.decode is None:
        _contexts.decode = ffi.gc(lib.ZSTD_createDCtx(), lib.ZSTD_freeDCtx)
    return _address(ffi.addressof(lib, "ZSTD_decompressDCtx")), _address(_contexts.decode)


def compressor(parameters: Parameters) -> tuple[int, int]:
    """Return the address of ``ZSTD_compress2`` and of this thread's context.

    ``parameters`` are pairs of a name, as in ``ZSTD_c_windowLog`` without the first part, and a
    number.
    """
    ffi, lib = _binding()
    if parameters not in _contexts.encode:
        context = ffi.gc(lib.ZSTD_createCCtx(), lib.ZSTD_freeCCtx)
        for name, value in parameters:
            done = lib.ZSTD_CCtx_setParameter(context, getattr(lib, f"ZSTD_c_{name}"), value)
            if lib.ZSTD_isError(done):
                why = ffi.string(lib.ZSTD_getErrorName(done)).decode()
                raise ValueError(f"zstd: {name} = {value}: {why}")
        _contexts.encode[parameters] = context
    return _address(ffi.addressof(lib, "ZSTD_compress2")), _address(_contexts.encode[parameters])


def _address(pointer: Any) -> int:
    ffi, _ = _binding()
    return int(ffi.cast("uintptr_t", pointer))
