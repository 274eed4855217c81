"""Chunks through all that is done with them, in machine code; ``thc_dask.native`` loads it.

A chunk is read, checked, decoded and counted, one after the other while it is in cache, and so are
all chunks of a shard, in one call: threads that come back to the interpreter for every step wait
for one another. zstd, the C library and the counts are called by their addresses.
"""
# Memory is named by addresses.

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import cfunc, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

DECODE, COUNT = 0, 1
WIDTH = 6  # numbers that make a step

LANE_BYTES = 4096  # three such pieces are checked side by side
POLYNOMIAL = 0x82F63B78  # of the crc32c, reflected
RESIDUE = 0x48674BC7  # the crc32c of whatever ends in its own crc32c
CRC_BYTES = 4

_I64, _INT = types.CPointer(types.int64), types.int64


def _after_zeros(n_bytes: int) -> Any:
    """Return what a checksum becomes behind ``n_bytes`` of zeros, by each byte of it (4, 256)."""
    byte: Any = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        byte = (byte >> 1) ^ np.where(byte & 1, np.uint32(POLYNOMIAL), np.uint32(0))
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    for _ in range(n_bytes):
        bits = (bits >> 8) ^ byte[bits & 0xFF]
    found = np.zeros((4, 256), np.uint64)
    for n in range(4):
        for bit in range(8):
            found[n, np.arange(256) >> bit & 1 == 1] ^= bits[8 * n + bit]
    return found


_AFTER = _after_zeros(LANE_BYTES)
# What each byte of a word comes to: of the first four behind the checksum's own, then the others.
_OF_WORD = np.concatenate([_after_zeros(8), _after_zeros(4)])
_OF_BYTE = _after_zeros(1)[0]


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def word_by_tables(crc: Any, word: Any) -> Any:
    """Return a checksum behind eight more bytes, on any processor."""
    word ^= crc
    found = np.uint64(0)
    for n in range(8):
        found ^= _OF_WORD[n, (word >> np.uint64(8 * n)) & np.uint64(0xFF)]
    return found


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def byte_by_table(crc: Any, byte: Any) -> Any:
    """Return a checksum behind one more byte, on any processor."""
    return (crc >> np.uint64(8)) ^ _OF_BYTE[(crc ^ np.uint64(byte)) & np.uint64(0xFF)]


@intrinsic
def word_by_instruction(_: Any, crc: Any, word: Any) -> Any:  # pragma: no cover - compiled
    """Return a checksum behind eight more bytes, where the processor has that itself."""
    return types.uint64(types.uint64, types.uint64), _instruction


_HAS_INSTRUCTION = bool(binding.get_host_cpu_features().get("sse4.2"))
_crc_word = word_by_instruction if _HAS_INSTRUCTION else word_by_tables


def _instruction(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    word = ir.IntType(64)
    kind = ir.FunctionType(word, [word, word])
    name = "llvm.x86.sse42.crc32.64.64"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), values)


@intrinsic
def _words_at(_: Any, address: Any) -> Any:  # pragma: no cover - compiled
    return _pointer(types.uint64, address)


@intrinsic
def _bytes_at(_: Any, address: Any) -> Any:  # pragma: no cover - compiled
    return _pointer(types.uint8, address)


def _pointer(kind: Any, address: Any) -> Any:
    """Return how an address becomes a pointer."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

    return types.CPointer(kind)(address), code


@intrinsic
def _call(_: Any, function: Any, arguments: Any) -> Any:  # pragma: no cover - compiled
    """Call the C function at an address; all it takes and returns are words."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        given = cgutils.unpack_tuple(builder, values[1], len(arguments))
        kind = ir.FunctionType(word, [word] * len(given))
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), given)

    return types.int64(function, arguments), code


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _behind(crc: Any) -> Any:
    """Return a checksum behind as many zeros as a lane has."""
    byte = np.uint64(0xFF)
    return (
        _AFTER[0, crc & byte]
        ^ _AFTER[1, (crc >> np.uint64(8)) & byte]
        ^ _AFTER[2, (crc >> np.uint64(16)) & byte]
        ^ _AFTER[3, crc >> np.uint64(24)]
    )


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def crc32c(address: Any, n_bytes: Any) -> Any:
    """Return the crc32c of some bytes.

    An instruction waits for the one before: three pieces side by side keep the processor busy.
    """
    lane = LANE_BYTES // 8
    words: Any = _words_at(address)  # type: ignore[call-arg]
    crc = np.uint64(0xFFFFFFFF)
    at, n_words = 0, n_bytes >> 3
    while n_words - at >= 3 * lane:
        second, third = np.uint64(0), np.uint64(0)
        for w in range(at, at + lane):
            crc = _crc_word(crc, words[w])
            second = _crc_word(second, words[w + lane])
            third = _crc_word(third, words[w + 2 * lane])
        crc = _behind(_behind(crc) ^ second) ^ third
        at += 3 * lane
    for w in range(at, n_words):
        crc = _crc_word(crc, words[w])
    rest: Any = _bytes_at(address)
    for i in range(8 * n_words, n_bytes):
        crc = byte_by_table(crc, rest[i])
    return crc ^ np.uint64(0xFFFFFFFF)


@cfunc(
    types.void(_I64, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _I64),
    error_model="numpy", forceinline=True,
)  # fmt: skip
def run(
    steps: Any, n_steps: Any, decompress: Any, context: Any, read: Any, stored: Any, count: Any,
    tally: Any, seen: Any, failed: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    """Do steps as ``Pipeline`` writes them; say which failed, counted from one.

    ``stored`` is room for the bytes of the longest chunk.
    """
    for i in range(n_steps):
        s = i * WIDTH
        if steps[s] == DECODE:
            file, start, n, into, size = (
                steps[s + 1], steps[s + 2], steps[s + 3], steps[s + 4], steps[s + 5]
            )  # fmt: skip
            source = start
            if file >= 0:
                source = stored
                if _call(read, (file, stored, n, start)) != n:  # type: ignore[call-arg]
                    failed[0] = i + 1
                    return
            if crc32c(source, n) != RESIDUE:
                failed[0] = i + 1
                return
            given = context, into, size, source, n - CRC_BYTES
            if _call(decompress, given) != size:  # type: ignore[call-arg]
                failed[0] = i + 1
                return
        else:
            jobs, n_jobs, n_rows, n_columns, met = (
                steps[s + 1], steps[s + 2], steps[s + 3], steps[s + 4], steps[s + 5]
            )  # fmt: skip
            given_too = jobs, n_jobs, n_rows, n_columns, tally, seen, met
            _call(count, given_too)  # type: ignore[call-arg]


EXPORTED = {"run": run}
