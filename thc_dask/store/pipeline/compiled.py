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
CHUNK_WIDTH = 10  # numbers that say what becomes of a chunk
LINE_BYTES = 64  # of most chunks
WORD_BYTES = 8
AHEAD = 8  # lines that are on their way from memory

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
def _fetch(_: Any, address: Any) -> Any:  # pragma: no cover - compiled
    """Have the processor bring a line of memory near, which may be anywhere."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        byte, flag = ir.IntType(8).as_pointer(), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        read, near, data = (ir.Constant(flag, n) for n in (0, 3, 1))
        builder.call(function, [builder.inttoptr(values[0], byte), read, near, data])
        return context.get_dummy_value()

    return types.none(address), code


@intrinsic
def _copy_line(_: Any, source: Any, into: Any) -> Any:  # pragma: no cover - compiled
    """Copy ``LINE_BYTES``."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        line = ir.VectorType(ir.IntType(8), LINE_BYTES).as_pointer()
        here, there = (builder.inttoptr(value, line) for value in values)
        builder.store(builder.load(here, align=1), there, align=1)
        return context.get_dummy_value()

    return types.none(source, into), code


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
def decode(
    steps: Any, n_steps: Any, decompress: Any, context: Any, read: Any, stored: Any, count: Any,
    tally: Any, seen: Any, failed: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    """Do steps as ``Decoding`` writes them; say which failed, counted from one.

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


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _gather(source: Any, step_z: Any, step_y: Any, n_z: Any, n_y: Any, n: Any, into: Any,
            size_y: Any, size: Any) -> None:  # fmt: skip
    """Bring lines of ``n`` bytes into one piece of lines of ``size`` bytes, ``size_y`` a plane."""
    for z in range(n_z):
        for y in range(n_y):
            line, place = source + z * step_z + y * step_y, into + (z * size_y + y) * size
            if n == LINE_BYTES:
                # Lines lie pages apart: no processor guesses which comes next.
                _fetch(line + AHEAD * step_y)  # type: ignore[call-arg]
                _fetch(line + AHEAD * step_y + LINE_BYTES - 1)
                _copy_line(line, place)
            else:
                here: Any = _words_at(line)  # type: ignore[call-arg]
                there: Any = _words_at(place)
                for w in range(n >> 3):
                    there[w] = here[w]
                old: Any = _bytes_at(line)
                new: Any = _bytes_at(place)
                for i in range(n & ~7, n):
                    new[i] = old[i]


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _is_zero(address: Any, n_bytes: Any) -> Any:
    """Whether all bytes are zero; one in the middle tells of most that they are not."""
    words: Any = _words_at(address)  # type: ignore[call-arg]
    found = np.uint64(0)
    if n_bytes >= WORD_BYTES:
        found = words[n_bytes >> 4]
    if found == 0:
        for w in range(n_bytes >> 3):
            found |= words[w]
        rest: Any = _bytes_at(address)
        for i in range(n_bytes & ~7, n_bytes):
            found |= np.uint64(rest[i])
    return found == 0


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _clear(address: Any, n_bytes: Any) -> None:
    words: Any = _words_at(address)  # type: ignore[call-arg]
    for w in range(n_bytes >> 3):
        words[w] = np.uint64(0)
    rest: Any = _bytes_at(address)
    for i in range(n_bytes & ~7, n_bytes):
        rest[i] = np.uint8(0)


@cfunc(
    types.void(_I64, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _I64),
    error_model="numpy", forceinline=True,
)  # fmt: skip
def encode(
    chunks: Any, n_chunks: Any, memory: Any, into: Any, room: Any, most: Any, compress: Any,
    context: Any, halve: Any, count: Any, found: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    """Make chunks as ``Encoding`` lists them; say of each how long it is and its checksum.

    Behind the chunks stand the size of each and what all counts have in common.
    A chunk of zeros is of no length. Behind the last stands how many were made: no chunk is begun
    that may not fit, being up to ``most`` long; -1 says that one could not be made.
    """
    common = n_chunks * CHUNK_WIDTH
    size_z, size_y, size = chunks[common + 0], chunks[common + 1], chunks[common + 2]
    n_rows, n_columns, tally = chunks[common + 3], chunks[common + 4], chunks[common + 5]
    seen, met = chunks[common + 6], chunks[common + 7]
    n_bytes = size_z * size_y * size
    at = 0
    for i in range(n_chunks):
        c = i * CHUNK_WIDTH
        if room - at < most:
            found[2 * n_chunks] = i
            return
        n_z, n_y, n = chunks[c + 3], chunks[c + 4], chunks[c + 5]
        if n_z < size_z or n_y < size_y or n < size:
            _clear(memory, n_bytes)
        _gather(chunks[c], chunks[c + 1], chunks[c + 2], n_z, n_y, n, memory, size_y, size)
        if chunks[c + 6]:
            given = (
                memory, 1, size_z, size_y, size >> 3, chunks[c + 6], 0, chunks[c + 7], chunks[c + 8]
            )  # fmt: skip
            _call(halve, given)  # type: ignore[call-arg]
        if chunks[c + 9]:
            job = chunks[c + 9], 1, n_rows, n_columns, tally, seen, met
            _call(count, job)  # type: ignore[call-arg]
        if _is_zero(memory, n_bytes):
            found[2 * i] = 0
            continue
        left = context, into + at, room - at, memory, n_bytes
        n_found: Any = _call(compress, left)  # type: ignore[call-arg]
        if n_found <= 0 or n_found > room - at - CRC_BYTES:
            found[2 * n_chunks] = -1
            return
        crc = crc32c(into + at, n_found)
        last: Any = _bytes_at(into + at + n_found)
        for b in range(CRC_BYTES):
            last[b] = np.uint8((crc >> np.uint64(8 * b)) & np.uint64(0xFF))
        found[2 * i], found[2 * i + 1] = n_found, np.int64(crc)
        at += n_found + CRC_BYTES
    found[2 * n_chunks] = n_chunks


EXPORTED = {"decode": decode, "encode": encode}
