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

from thc_dask.native.memory import (
    LINE_BYTES,
    bytes_at,
    call,
    copy_line,
    fetch,
    intrinsic,
    numbers_at,
    words_at,
)

DECODE, COUNT = 0, 1
WIDTH = 6  # numbers that make a step
CHUNK_WIDTH = 10  # numbers that say what becomes of a chunk
WORD_BYTES = 8
AHEAD = 8  # lines that are on their way from memory
JOB_BYTES = 8 * 15  # of ``kernels.histogram``; behind it, which rows were met
N_INTENSITIES = 256

LANE_BYTES = 4096  # three such pieces are checked side by side
POLYNOMIAL = 0x82F63B78  # of the crc32c, reflected
RESIDUE = 0x48674BC7  # the crc32c of whatever ends in its own crc32c
CRC_BYTES = 4

N_SAMPLES, ONE_IN, GOLDEN = 512, 32, 0x9E3779B97F4A7C15  # of ``store.zstd``
HASHES = 2**16

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
    words: Any = words_at(address)
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
    rest: Any = bytes_at(address)
    for i in range(8 * n_words, n_bytes):
        crc = byte_by_table(crc, rest[i])
    return crc ^ np.uint64(0xFFFFFFFF)


@cfunc(
    types.void(_I64, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _I64),
    error_model="numpy", forceinline=True,
)  # fmt: skip
def decode(
    steps: Any, n_steps: Any, literals: Any, room: Any, decompress: Any, context: Any, read: Any,
    stored: Any, count: Any, tally: Any, seen: Any, failed: Any,
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
                if call(read, (file, stored, n, start)) != n:
                    failed[0] = i + 1
                    return
            if crc32c(source, n) != RESIDUE:
                failed[0] = i + 1
                return
            given = context, into, size, source, n - CRC_BYTES
            call(literals, (into, size, source, n - CRC_BYTES, room))
            if numbers_at(room)[0] != size and call(decompress, given) != size:
                failed[0] = i + 1
                return
        else:
            jobs, n_jobs, n_rows, n_columns, met = (
                steps[s + 1], steps[s + 2], steps[s + 3], steps[s + 4], steps[s + 5]
            )  # fmt: skip
            given_too = jobs, n_jobs, n_rows, n_columns, tally, seen, met
            call(count, given_too)


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _gather(source: Any, step_z: Any, step_y: Any, n_z: Any, n_y: Any, n: Any, into: Any,
            size_y: Any, size: Any) -> None:  # fmt: skip
    """Bring lines of ``n`` bytes into one piece of lines of ``size`` bytes, ``size_y`` a plane."""
    for z in range(n_z):
        for y in range(n_y):
            line, place = source + z * step_z + y * step_y, into + (z * size_y + y) * size
            if n == LINE_BYTES:
                # Lines lie pages apart: no processor guesses which comes next.
                fetch(line + AHEAD * step_y)
                fetch(line + AHEAD * step_y + LINE_BYTES - 1)
                copy_line(line, place)
            else:
                here: Any = words_at(line)
                there: Any = words_at(place)
                for w in range(n >> 3):
                    there[w] = here[w]
                old: Any = bytes_at(line)
                new: Any = bytes_at(place)
                for i in range(n & ~7, n):
                    new[i] = old[i]


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _is_zero(address: Any, n_bytes: Any) -> Any:
    """Whether all bytes are zero; one in the middle tells of most that they are not."""
    words: Any = words_at(address)
    found = np.uint64(0)
    if n_bytes >= WORD_BYTES:
        found = words[n_bytes >> 4]
    if found == 0:
        for w in range(n_bytes >> 3):
            found |= words[w]
        rest: Any = bytes_at(address)
        for i in range(n_bytes & ~7, n_bytes):
            found |= np.uint64(rest[i])
    return found == 0


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _clear(address: Any, n_bytes: Any) -> None:
    words: Any = words_at(address)
    for w in range(n_bytes >> 3):
        words[w] = np.uint64(0)
    rest: Any = bytes_at(address)
    for i in range(n_bytes & ~7, n_bytes):
        rest[i] = np.uint8(0)


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _repeats(address: Any, n_bytes: Any, seen: Any) -> Any:
    """Whether bytes probably repeat themselves, as ``store.zstd`` tells it.

    ``seen`` is room for a bit of each hash.
    """
    words: Any = words_at(address)
    bits: Any = words_at(seen)
    n_words = n_bytes >> 3
    n = min(n_words, N_SAMPLES)
    if n == 0:
        return False
    for i in range(HASHES >> 6):
        bits[i] = np.uint64(0)
    step, n_equal = n_words // n, np.uint64(0)
    for i in range(n):
        hashed = (words[i * step] * np.uint64(GOLDEN)) >> np.uint64(48)
        word, bit = hashed >> np.uint64(6), hashed & np.uint64(63)
        n_equal += (bits[word] >> bit) & np.uint64(1)
        bits[word] |= np.uint64(1) << bit
    return ONE_IN * np.int64(n_equal) > n


@cfunc(
    types.void(_I64, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _I64),
    error_model="numpy", forceinline=True,
)  # fmt: skip
def encode(
    chunks: Any, n_chunks: Any, memory: Any, into: Any, room: Any, most: Any, compress: Any,
    context: Any, noise: Any, hashes: Any, halve: Any, count: Any, found: Any,
) -> None:  # fmt: skip  # pragma: no cover - compiled
    """Make chunks as ``Encoding`` lists them; say of each how long it is and its checksum.

    Behind the chunks stand the size of each and what all counts have in common: the table of the
    first plane, what is counted in, and room for a job. Each chunk says where its own counts go, or
    0 where it is not counted.
    ``context`` is the compressor's, ``noise`` that for chunks that do not repeat themselves, or 0.
    A chunk of zeros is of no length. Behind the last stands how many were made: no chunk is begun
    that may not fit, being up to ``most`` long; -1 says that one could not be made.
    """
    common = n_chunks * CHUNK_WIDTH
    size_z, size_y, size = chunks[common + 0], chunks[common + 1], chunks[common + 2]
    table, tally, seen, room_of_job = (
        chunks[common + 3], chunks[common + 4], chunks[common + 5], chunks[common + 6]
    )  # fmt: skip
    job: Any = numbers_at(room_of_job)
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
            call(halve, given)
        if chunks[c + 9]:  # one row of all voxels, as ``Jobs`` writes it
            job[0], job[1], job[2], job[3], job[4] = memory, 0, 0, 0, 0
            job[5], job[6], job[7], job[8] = memory, 0, size_y * size, size
            job[9], job[10], job[11] = n_z, n_y, n
            job[12], job[13], job[14] = table, chunks[c + 9], 0
            met = room_of_job + JOB_BYTES
            counting = room_of_job, 1, 1, N_INTENSITIES, tally, seen, met
            call(count, counting)
        if _is_zero(memory, n_bytes):
            found[2 * i] = 0
            continue
        chosen = context
        if noise and not _repeats(memory, n_bytes, hashes):
            chosen = noise
        left = chosen, into + at, room - at, memory, n_bytes
        n_found: Any = call(compress, left)
        if n_found <= 0 or n_found > room - at - CRC_BYTES:
            found[2 * n_chunks] = -1
            return
        crc = crc32c(into + at, n_found)
        last: Any = bytes_at(into + at + n_found)
        for b in range(CRC_BYTES):
            last[b] = np.uint8((crc >> np.uint64(8 * b)) & np.uint64(0xFF))
        found[2 * i], found[2 * i + 1] = n_found, np.int64(crc)
        at += n_found + CRC_BYTES
    found[2 * n_chunks] = n_chunks


EXPORTED = {"decode": decode, "encode": encode}
