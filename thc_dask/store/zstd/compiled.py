"""Frames of nothing but literals, decoded two blocks side by side; ``thc_dask.native`` loads it.

The noise of a CT image holds no repeats, so its frames are literals alone: four streams of Huffman
codes a block. Where a code ends is known once it is looked up, so a processor that has four
streams to turn to still waits most of the time. Two blocks make eight: 1.4 times as fast as the
library, which does one block after the other.

The format is RFC 8878's: section 3.1.1 (frames, blocks, literals), 4.1 (FSE) and 4.2 (Huffman).
Nothing is written or read out of bounds, whatever the frame holds; any that is not of that kind, or
not right, is left to the library.
"""
# Memory is named by addresses. Streams are read from their ends to their beginnings.

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import cfunc, njit, types
from numba.core import cgutils

from thc_dask.native.memory import (
    LINE_BYTES,
    bytes_at,
    copy_line,
    intrinsic,
    numbers_at,
    put_word,
    words_at,
)

MAGIC = 0xFD2FB528
LONGEST_HEADER = 18
BLOCK_LOG, WINDOW_LOG = 17, 26  # what the library decodes without being asked to
BLOCK = 1 << BLOCK_LOG  # the longest that there is, and what all blocks of a large frame hold
STREAM = BLOCK // 4
PAIR = 8  # streams of two blocks
COMPRESSED, TREELESS = 2, 3  # kinds of blocks and of literals

LOG = 11  # bits of the longest code
N_CODES = 1 << LOG
TURNS = 5  # codes of a stream between two looks at where it is: 55 bits of at least 56
TURN_BYTES = 7  # that these take at most
STRIDE = 512  # of a stream, between two such looks at all eight
MOST_TURNS = STRIDE // TURNS
FSE_LOG = 6  # of the longest table of weights
MOST_WEIGHTS = 255
MOST_OF_FSE = 16  # more than there are weights

# What lies in the memory that a thread brings, in bytes.
TABLE = N_CODES + 64  # with room for the last word that is written
LENGTHS = 64  # of codes, a table for each of the two blocks
SYMBOLS = LENGTHS + 2 * TABLE
BITS = SYMBOLS + 2 * TABLE  # a word of each stream, whose next code stands on top
PLACES = BITS + 8 * PAIR  # where that word was read
STARTS = PLACES + 8 * PAIR  # of the streams
WEIGHTS = STARTS + 8 * PAIR
ORDER = WEIGHTS + 512  # symbols by their weights
NORM = ORDER + 512  # of FSE: how often each weight occurs
STATE_SYMBOLS = NORM + 8 * 32
STATE_BITS = STATE_SYMBOLS + 8 * 2**FSE_LOG
STATE_NEXT = STATE_BITS + 8 * 2**FSE_LOG
RANKS = STATE_NEXT + 8 * 2**FSE_LOG  # of how many symbols each weight is
DECODED = RANKS + 8 * 32  # of each stream, on its way to where it belongs
N_BYTES = DECODED + PAIR * STRIDE

_INT = types.int64


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _top(n: Any) -> Any:
    """Return the place of the highest bit that is set, of up to 17."""
    found = 0
    while n > 1:
        n >>= 1
        found += 1
    return found


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _few(source: Any, at: Any, n: Any) -> Any:
    """Return ``n`` bits, up to 16, from a bit on; the lowest comes first."""
    three: Any = bytes_at(source + (at >> 3))
    word = np.int64(three[0]) | np.int64(three[1]) << 8 | np.int64(three[2]) << 16
    return (word >> (at & 7)) & ((1 << n) - 1)


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _back(source: Any, at: Any, n: Any) -> Any:
    """Return the ``n`` bits before a bit; before the first of a stream there are zeros."""
    if at >= n:
        return _few(source, at - n, n)
    if at <= 0:
        return np.int64(0)
    return _few(source, 0, at) << (n - at)


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _occurrences(source: Any, n_bytes: Any, log: Any, norm: Any) -> Any:
    """Read how often each weight occurs; return (weights, bytes read), (0, 0) where not right."""
    at, symbol, left = 4, 0, (1 << log) + 1
    threshold, n_bits = 1 << log, log + 1
    while left > 1:
        most = 2 * threshold - 1 - left
        n = _few(source, at, n_bits)
        if (n & (threshold - 1)) < most:
            n &= threshold - 1
            at += n_bits - 1
        else:
            if n >= threshold:
                n -= most
            at += n_bits
        norm[symbol] = n - 1
        symbol += 1
        left -= abs(n - 1)
        while left < threshold and threshold > 1:
            n_bits -= 1
            threshold >>= 1
        if n == 1:  # none: how many more there are follows
            more = 3
            while more == 3 and symbol < MOST_OF_FSE:
                more = _few(source, at, 2)
                at += 2
                for _ in range(more):
                    norm[symbol] = 0
                    symbol += 1
        if at > 8 * n_bytes or symbol > MOST_OF_FSE:
            return 0, 0
    if left != 1:
        return 0, 0
    return symbol, (at + 7) >> 3


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _states(n: Any, log: Any, norm: Any, symbols: Any, bits: Any, following: Any) -> None:
    """Lay out the states of FSE for ``n`` symbols."""
    size = 1 << log
    high, at, step = size - 1, 0, (size >> 1) + (size >> 3) + 3
    for s in range(n):
        if norm[s] < 0:
            symbols[high] = s
            high -= 1
    for s in range(n):
        for _ in range(norm[s]):
            symbols[at] = s
            at = (at + step) & (size - 1)
            while at > high:
                at = (at + step) & (size - 1)
        norm[s] = abs(norm[s])
    for i in range(size):
        s = symbols[i]
        n_bits = log - _top(norm[s])
        bits[i], following[i] = n_bits, (norm[s] << n_bits) - size
        norm[s] += 1


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _weights_by_fse(source: Any, n_bytes: Any, room: Any, weights: Any) -> Any:
    """Read weights that are compressed themselves; return how many, 0 where they are not right."""
    norm: Any = numbers_at(room + NORM)
    symbols: Any = numbers_at(room + STATE_SYMBOLS)
    bits: Any = numbers_at(room + STATE_BITS)
    following: Any = numbers_at(room + STATE_NEXT)
    log = _few(source, 0, 4) + 5
    if log > FSE_LOG:
        return 0
    n_symbols, used = _occurrences(source, n_bytes, log, norm)
    if n_symbols == 0 or used >= n_bytes:
        return 0
    _states(n_symbols, log, norm, symbols, bits, following)
    coded: Any = bytes_at(source + used)
    last = np.int64(coded[n_bytes - used - 1])
    at = 8 * (n_bytes - used - 1) + _top(last) - 2 * log
    if last == 0 or at < 0:
        return 0
    one, two = _back(source + used, at + 2 * log, log), _back(source + used, at + log, log)
    n = 0
    while n < MOST_WEIGHTS:  # the two take turns
        weights[n] = np.uint8(symbols[one])
        n += 1
        n_bits = bits[one]
        one, two = two, following[one] + _back(source + used, at, n_bits)
        at -= n_bits
        if at < 0:
            weights[n] = np.uint8(symbols[one])
            return n + 1
    return 0


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _tables(source: Any, n_bytes: Any, room: Any, which: Any) -> Any:
    """Make the tables of a block; return how many bytes told them, 0 where they are not right."""
    head: Any = bytes_at(source)
    weights: Any = bytes_at(room + WEIGHTS)
    order: Any = bytes_at(room + ORDER)
    ranks: Any = numbers_at(room + RANKS)
    told = np.int64(head[0])
    if told >= 128:  # four bits each
        n = told - 127
        used = 1 + ((n + 1) >> 1)
        if used > n_bytes:
            return 0
        for i in range(n):
            weights[i] = (head[1 + (i >> 1)] >> np.uint8(4 * (~i & 1))) & np.uint8(15)
    else:
        used = 1 + told
        if used > n_bytes or told < 2:
            return 0
        n = _weights_by_fse(source + 1, told, room, weights)
    if n == 0 or n > MOST_WEIGHTS:
        return 0

    total = np.int64(0)
    for i in range(n):
        if weights[i] > LOG:
            return 0
        total += (1 << np.int64(weights[i])) >> 1
    if total == 0 or total >= N_CODES:
        return 0
    log = _top(total) + 1
    rest = (1 << log) - total
    if rest & (rest - 1):  # the last weight is what fills the rest
        return 0
    weights[n] = np.uint8(_top(rest) + 1)
    n += 1

    for w in range(LOG + 2):
        ranks[w] = 0
    for i in range(n):
        ranks[np.int64(weights[i]) + 1] += 1
    if ranks[2] < 2 or ranks[2] & 1:
        return 0
    for w in range(LOG + 1):
        ranks[w + 1] += ranks[w]
    n_none = ranks[1]
    for i in range(n):
        weight = np.int64(weights[i])
        order[ranks[weight]] = np.uint8(i)
        ranks[weight] += 1
    # From the shortest entry on: a word that reaches into the next is overwritten by it.
    at, eight = np.int64(0), np.uint64(0x0101010101010101)
    lengths, symbols = room + LENGTHS + which * TABLE, room + SYMBOLS + which * TABLE
    for i in range(n_none, n):
        s = order[i]
        weight = np.int64(weights[s])
        size = 1 << (weight - 1 + LOG - log)
        length, symbol = np.uint64(log + 1 - weight) * eight, np.uint64(s) * eight
        for here in range(at, at + size, 8):
            put_word(lengths + here, length)
            put_word(symbols + here, symbol)
        at += size
    return used


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _copy_tables(room: Any, one: Any, other: Any) -> None:
    words: Any = words_at(room + LENGTHS)
    n = TABLE >> 3
    for w in range(n):
        words[other * n + w] = words[one * n + w]
        words[(2 + other) * n + w] = words[(2 + one) * n + w]


@intrinsic
def _turns(_: Any, room: Any, out: Any, n: Any) -> Any:  # pragma: no cover - compiled
    """Decode ``TURNS`` codes of each of eight streams, ``n`` times."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word, byte = ir.IntType(64), ir.IntType(8)
        base, into = (builder.inttoptr(value, byte.as_pointer()) for value in values[:2])
        kind = ir.FunctionType(word, [word, ir.IntType(1)])
        zeros_below = cgutils.get_or_insert_function(builder.module, kind, "llvm.cttz.i64")

        def whole(value: int) -> Any:
            return ir.Constant(word, value)

        def word_of(k: int, place: int) -> Any:
            at = builder.gep(base, [whole(place + 8 * k)])
            return builder.bitcast(at, word.as_pointer())

        bits = [cgutils.alloca_once(builder, word) for _ in range(PAIR)]
        for k in range(PAIR):
            builder.store(builder.load(word_of(k, BITS)), bits[k])
        here = cgutils.alloca_once_value(builder, into)
        with cgutils.for_range(builder, values[2]):
            for turn in range(TURNS):
                for k in range(PAIR):
                    rest, half = builder.load(bits[k]), k // 4 * TABLE
                    top = builder.lshr(rest, whole(64 - LOG))
                    entry = builder.gep(base, [builder.add(top, whole(LENGTHS + half))])
                    length = builder.and_(builder.zext(builder.load(entry), word), whole(63))
                    entry = builder.gep(base, [builder.add(top, whole(SYMBOLS + half))])
                    symbol = builder.load(entry)
                    builder.store(builder.shl(rest, length), bits[k])
                    place = builder.gep(builder.load(here), [whole(k * STRIDE + turn)])
                    builder.store(symbol, place)
            builder.store(builder.gep(builder.load(here), [whole(TURNS)]), here)
            for k in range(PAIR):
                # The lowest bit of a word is set when it is read, so zeros below it are bits used.
                used = builder.call(zeros_below, [builder.load(bits[k]), ir.IntType(1)(1)])
                place = builder.sub(builder.load(word_of(k, PLACES)), builder.lshr(used, whole(3)))
                builder.store(place, word_of(k, PLACES))
                read = builder.load(builder.inttoptr(place, word.as_pointer()), align=1)
                left = builder.shl(builder.or_(read, whole(1)), builder.and_(used, whole(7)))
                builder.store(left, bits[k])
        for k in range(PAIR):
            builder.store(builder.load(bits[k]), word_of(k, BITS))
        return context.get_dummy_value()

    return types.none(room, out, n), code


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _begin(source: Any, n_bytes: Any, room: Any, which: Any) -> Any:
    """Begin with the four streams of a block; return whether they are right."""
    head: Any = bytes_at(source)
    bits: Any = words_at(room + BITS)
    places: Any = numbers_at(room + PLACES)
    starts: Any = numbers_at(room + STARTS)
    if n_bytes < 6:
        return False
    start, end = source + 6, source + n_bytes
    for i in range(4):
        n = np.int64(end - start)
        if i < 3:
            n = np.int64(head[2 * i]) | np.int64(head[2 * i + 1]) << 8
        if n < 8 or start + n > end:
            return False
        last: Any = bytes_at(start + n - 1)
        if last[0] == 0:
            return False
        word: Any = words_at(start + n - 8)
        k = 4 * which + i
        places[k], starts[k] = start + n - 8, start
        bits[k] = (word[0] | np.uint64(1)) << np.uint64(8 - _top(np.int64(last[0])))
        start += n
    return True


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _end(room: Any, k: Any, into: Any, n: Any) -> Any:
    """Decode the last ``n`` codes of a stream; return whether it ends there."""
    bits: Any = words_at(room + BITS)
    places: Any = numbers_at(room + PLACES)
    starts: Any = numbers_at(room + STARTS)
    lengths: Any = bytes_at(room + LENGTHS + (k >> 2) * TABLE)
    symbols: Any = bytes_at(room + SYMBOLS + (k >> 2) * TABLE)
    out: Any = bytes_at(into)
    used, word = 0, bits[k]
    while not word & np.uint64(1):
        word >>= np.uint64(1)
        used += 1
    at = 8 * (places[k] - starts[k]) + 64 - used
    for i in range(n):
        code = _back(starts[k], at, LOG)
        out[i] = symbols[code]
        at -= np.int64(lengths[code])
    return at == 0


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _literals(source: Any, end: Any, room: Any, which: Any, is_first: Any) -> Any:
    """Begin with a block; return whether it is one of literals alone, and where the next begins."""
    head: Any = bytes_at(source)
    if end - source < 3 + 5:
        return False, end
    told = np.int64(head[0]) | np.int64(head[1]) << 8 | np.int64(head[2]) << 16
    n_bytes = told >> 3
    stop = source + 3 + n_bytes
    if (told >> 1) & 3 != COMPRESSED or stop > end or (told & 1) != (stop == end):
        return False, end
    # Two bits of kind, two that say how long the header is, 18 each of both sizes.
    kind, size = np.int64(head[3]) & 15, np.int64(0)
    for i in range(5):
        size |= np.int64(head[3 + i]) << (8 * i)
    n_literals, n_stored = (size >> 4) & (2**18 - 1), size >> 22
    at = source + 3 + 5
    last: Any = bytes_at(stop - 1)
    if (kind & 12) != 12 or n_literals != BLOCK or at + n_stored != stop - 1 or last[0] != 0:
        return False, end
    used = np.int64(0)
    if (kind & 3) == COMPRESSED:
        used = _tables(at, n_stored, room, which)
        if used == 0:
            return False, end
    elif (kind & 3) == TREELESS and not is_first:
        _copy_tables(room, 1 - which, which)  # those of the block before
    else:
        return False, end
    return _begin(at + used, n_stored - used, room, which), stop


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _content(source: Any, n_bytes: Any) -> Any:
    """Return (bytes that a frame holds, bytes of its header), (-1, 0) where it does not say."""
    head: Any = bytes_at(source)
    if n_bytes < LONGEST_HEADER:
        return np.int64(-1), 0
    magic, told = np.int64(0), np.int64(head[4])
    for i in range(4):
        magic |= np.int64(head[i]) << (8 * i)
    is_single = (told >> 5) & 1
    if magic != MAGIC or told & 15:  # a checksum, a dictionary
        return np.int64(-1), 0
    if not is_single and not BLOCK_LOG <= 10 + (head[5] >> 3) <= WINDOW_LOG:
        return np.int64(-1), 0
    at, n = 5 + (1 - is_single), 1 << (told >> 6)
    if n == 1:
        n = is_single
    size = np.int64(0)
    for i in range(n):
        size |= np.int64(head[at + i]) << (8 * i)
    if n == 2:
        size += 256
    return size, at + n


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _bring(source: Any, into: Any, n: Any) -> None:
    """Bring ``n`` bytes of each stream to where they belong."""
    for k in range(PAIR):
        old: Any = bytes_at(source + k * STRIDE)
        new: Any = bytes_at(into + k * STREAM)
        for line in range(0, n & ~(LINE_BYTES - 1), LINE_BYTES):
            copy_line(source + k * STRIDE + line, into + k * STREAM + line)
        for i in range(n & ~(LINE_BYTES - 1), n):
            new[i] = old[i]


@njit(forceinline=True, error_model="numpy")  # pragma: no cover - compiled
def _decode_pair(room: Any, into: Any) -> Any:
    """Decode two blocks that were begun with; return whether they are right."""
    places: Any = numbers_at(room + PLACES)
    starts: Any = numbers_at(room + STARTS)
    done, n = np.int64(0), np.int64(1)
    most = np.int64(MOST_TURNS)
    while n > 0:
        n = (STREAM - done) // TURNS
        for k in range(PAIR):
            n = min(n, (places[k] - starts[k]) // TURN_BYTES)
        n = min(n, most)
        _turns(room, room + DECODED, n)
        _bring(room + DECODED, into + done, TURNS * n)
        done += TURNS * n
    right = True
    for k in range(PAIR):
        right &= _end(room, k, into + k * STREAM + done, STREAM - done)
    return right


@cfunc(types.void(_INT, _INT, _INT, _INT, _INT), error_model="numpy", forceinline=True)
def decompress(
    into: Any, size: Any, source: Any, n_bytes: Any, room: Any
) -> None:  # pragma: no cover - compiled
    """Decode a frame of ``size`` bytes; say in the first word of ``room`` how many were.

    That is ``size``, or 0 where the frame is of another kind: then some of ``into`` is written.
    ``room`` is ``N_BYTES`` long.
    """
    done: Any = numbers_at(room)
    done[0] = 0
    content, used = _content(source, n_bytes)
    if content != size or size % (2 * BLOCK):
        return
    at, end = source + used, source + n_bytes
    for start in range(0, size, 2 * BLOCK):
        right = True
        for which in range(2):
            if right:
                right, at = _literals(at, end, room, which, start + which == 0)
        if not right or not _decode_pair(room, into + start):
            return
    if at == end:
        done[0] = size


EXPORTED = {"decompress": decompress}
