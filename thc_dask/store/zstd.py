"""The zstd library itself, where machine code can call it: functions by address, and contexts.

The package ``zstandard`` brings the library and, beside its own functions, a plain binding to it.
"""

from __future__ import annotations

import threading
from functools import cache
from typing import Any


@cache
def _binding() -> Any:
    try:
        from zstandard._cffi import ffi, lib  # type: ignore[import-not-found]
    except ImportError:  # it was built without
        return None
    return ffi, lib


class _Contexts(threading.local):
    """What each thread decodes and compresses in."""

    decode: Any = None


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


def _address(pointer: Any) -> int:
    ffi, _ = _binding()
    return int(ffi.cast("uintptr_t", pointer))
