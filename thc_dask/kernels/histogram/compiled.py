"""The counting itself, in machine code; ``thc_dask.native`` loads it.

What limits it is that an increment must wait for the one before it at the same place, and
neighbours are often equal: four tallies take turns. They are of 16 bits, so that they stay in the
first cache, and are emptied into the table before they can overflow.

Processors that count the bits of vectors need no increment. Of 512 voxels of one row each of the
eight bits becomes a vector; the vectors of some bits, "and", have a bit for each voxel that has
them all; and how many voxels have which bits says how many are of each value.
"""
# Memory is named by addresses. `rows`, `columns` begin at a multiple of eight bytes and are seen
# both as bytes and as words of eight; offsets and strides are in voxels.

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from llvmlite import binding, ir
from numba import cfunc, njit, types
from numba.core import cgutils

from thc_dask.native.memory import bytes_at, counts_at, intrinsic, tallies_at, words_at

LANES = 4
LANE = 256  # of a tally (row, lane, column)
TALLY_BYTES = 2 * 256 * LANES * LANE  # of all rows
MOST = 65528  # voxels between two emptyings: a tally can count to 65535

N_BITS = 8  # of a voxel, and words of a vector
VECTOR_BYTES = 64
BLOCK = N_BITS * VECTOR_BYTES  # voxels whose bits are eight vectors
MOST_BLOCKS = 8  # that are counted together
N_LOW = 3  # bits; the others tell groups of values, of which most images have few
N_GROUPS = 2 ** (N_BITS - N_LOW)
TOGETHER = 4  # groups whose counts fill a vector
GROUPS = MOST_BLOCKS * N_LOW * VECTOR_BYTES  # where their vectors are, behind those of low bits
ROOM_BYTES = GROUPS + MOST_BLOCKS * N_GROUPS * VECTOR_BYTES
_HAS_VECTORS = bool(binding.get_host_cpu_features().get("avx512vpopcntdq"))

_U8, _U16 = types.CPointer(types.uint8), types.CPointer(types.uint16)
_U32 = types.CPointer(types.uint32)
_I64, _INT = types.CPointer(types.int64), types.int64


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _same(words: Any, first: Any, n: Any) -> Any:
    """Whether words all hold one byte, eight times."""
    value = (words[first] & np.uint64(0xFF)) * np.uint64(0x0101010101010101)
    other = np.uint64(0)
    for w in range(first, first + n):
        other |= words[w] ^ value
    return other == 0


@intrinsic
def _count_blocks(_: Any, source: Any, n: Any, room: Any, table: Any, total: Any) -> Any:
    """Count ``n`` blocks, up to ``MOST_BLOCKS``, into 256 counts of a plane and of all."""
    return types.none(source, n, room, table, total), _blocks  # pragma: no cover - compiled


_WORD, _COUNT = ir.IntType(64), ir.IntType(32)
_VECTOR = ir.VectorType(_WORD, N_BITS)


def _word(value: int) -> Any:
    return ir.Constant(_WORD, value)


def _all_words(value: int) -> Any:
    return ir.Constant(_VECTOR, [_word(value)] * N_BITS)


def _vector_at(builder: Any, base: Any, *offsets: Any) -> Any:
    """Return where a vector is: a pointer, so many bytes behind an address."""
    for offset in offsets:
        base = builder.add(base, offset)
    return builder.inttoptr(base, _VECTOR.as_pointer())


def _blocks(context: Any, builder: Any, signature: Any, values: Any) -> Any:
    source, n, room, table, total = values
    zero = _all_words(0)
    with cgutils.for_range(builder, n) as loop:
        start = builder.add(source, builder.mul(loop.index, _word(BLOCK)))
        vectors = [
            builder.load(_vector_at(builder, start, _word(VECTOR_BYTES * i)), align=1)
            for i in range(N_BITS)
        ]
        bits = _bits(builder, vectors)
        low = builder.mul(loop.index, _word(N_LOW * VECTOR_BYTES))
        for i in range(N_LOW):
            place = _vector_at(builder, room, low, _word(VECTOR_BYTES * i))
            builder.store(bits[i], place, align=VECTOR_BYTES)
        here = builder.mul(loop.index, _word(VECTOR_BYTES))
        for g, group in enumerate(_groups(builder, None, bits[N_LOW:])):
            at = _word(GROUPS + g * MOST_BLOCKS * VECTOR_BYTES)
            builder.store(group, _vector_at(builder, room, here, at), align=VECTOR_BYTES)
    with cgutils.for_range_slice(builder, n, _word(MOST_BLOCKS), _word(1)) as (number, _):
        here = builder.mul(number, _word(VECTOR_BYTES))
        for g in range(N_GROUPS):  # the same code for any number of blocks
            at = _word(GROUPS + g * MOST_BLOCKS * VECTOR_BYTES)
            builder.store(zero, _vector_at(builder, room, here, at), align=VECTOR_BYTES)
    with cgutils.for_range(builder, _word(N_GROUPS)) as loop:
        group = builder.add(room, builder.mul(loop.index, _word(MOST_BLOCKS * VECTOR_BYTES)))
        group = builder.add(group, _word(GROUPS))
        found = cgutils.alloca_once(builder, _VECTOR)
        builder.store(zero, found)
        with cgutils.for_range(builder, _word(MOST_BLOCKS)) as block:
            at = builder.mul(block.index, _word(VECTOR_BYTES))
            some = builder.load(_vector_at(builder, group, at), align=VECTOR_BYTES)
            builder.store(builder.or_(builder.load(found), some), found)
        bits_of_all = ir.IntType(64 * N_BITS)
        some = builder.bitcast(builder.load(found), bits_of_all)
        with builder.if_then(builder.icmp_unsigned("!=", some, ir.Constant(bits_of_all, 0))):
            # Of a group without voxels the zeros of its vectors are what is put there.
            for half, counts in enumerate(_with_bits(builder, room, group)):
                place = _vector_at(builder, group, _word(VECTOR_BYTES * half))
                builder.store(counts, place, align=VECTOR_BYTES)
    with cgutils.for_range(builder, _word(N_GROUPS // TOGETHER)) as loop:
        groups_bytes = TOGETHER * MOST_BLOCKS * VECTOR_BYTES
        first = builder.add(room, builder.mul(loop.index, _word(groups_bytes)))
        counts_of_all = _counts_of_groups(builder, builder.add(first, _word(GROUPS)))
        line = builder.mul(loop.index, _word(4 * TOGETHER * 2**N_LOW))
        for i, counts in enumerate(counts_of_all):
            for into in (table, total):
                start = builder.add(builder.add(into, line), _word(VECTOR_BYTES * i))
                place = builder.inttoptr(start, counts.type.as_pointer())
                builder.store(builder.add(builder.load(place, align=4), counts), place, align=4)
    return context.get_dummy_value()


def _bits(builder: Any, vectors: list[Any]) -> list[Any]:
    """Return a vector of each bit of the bytes in eight vectors, the lowest first."""
    found = list(vectors)
    for step, mask in ((4, 0x0F), (2, 0x33), (1, 0x55)):
        low = _all_words(mask * 0x0101010101010101)
        high = _all_words(mask * 0x0101010101010101 << step)
        shift = _all_words(step)
        for i in range(N_BITS):
            if not i & step:  # swap blocks of bits, as a matrix of bits is transposed
                one, other = found[i], found[i + step]
                found[i] = builder.or_(
                    builder.and_(one, low), builder.and_(builder.shl(other, shift), high)
                )
                found[i + step] = builder.or_(
                    builder.and_(builder.lshr(one, shift), low), builder.and_(other, high)
                )
    return found


def _groups(builder: Any, group: Any, bits: list[Any]) -> Iterator[Any]:
    """Yield voxels of a group by their bits, the lowest first: few vectors are held at a time."""
    if not bits:
        yield group
        return
    *lower, bit = bits
    for having in (builder.not_(bit), bit):
        part = having if group is None else builder.and_(group, having)
        yield from _groups(builder, part, lower)


def _with_bits(builder: Any, room: Any, group: Any) -> list[Any]:
    """Return how many voxels of a group have at least some of the low bits.

    Two vectors: a word of each has counts of 16 bits for four of the eight sets of bits.
    """
    kind = ir.FunctionType(_VECTOR, [_VECTOR])
    ones = cgutils.get_or_insert_function(builder.module, kind, "llvm.ctpop.v8i64")
    sums = [cgutils.alloca_once(builder, _VECTOR) for _ in range(2**N_LOW)]
    for place in sums:
        builder.store(_all_words(0), place)
    with cgutils.for_range(builder, _word(MOST_BLOCKS)) as block:
        at = builder.mul(block.index, _word(VECTOR_BYTES))
        having = [builder.load(_vector_at(builder, group, at), align=VECTOR_BYTES)]
        low = builder.mul(block.index, _word(N_LOW * VECTOR_BYTES))
        for i in range(N_LOW):
            place = _vector_at(builder, room, low, _word(VECTOR_BYTES * i))
            bit = builder.load(place, align=VECTOR_BYTES)
            having += [builder.and_(some, bit) for some in having]
        for some, place in zip(having, sums, strict=True):
            builder.store(builder.add(builder.load(place), builder.call(ones, [some])), place)
    found = [builder.load(place) for place in sums]
    packed = []
    for i in range(0, len(found), 4):  # no word of a sum is more than 64 bits of each block
        word = found[i]
        for k in range(1, 4):
            word = builder.or_(word, builder.shl(found[i + k], _all_words(16 * k)))
        packed.append(word)
    return packed


def _counts_of_groups(builder: Any, first: Any) -> list[Any]:
    """Return how many voxels have each value of some groups, 16 counts a vector."""
    found = [
        builder.load(
            _vector_at(builder, first, _word((MOST_BLOCKS * g + half) * VECTOR_BYTES)),
            align=VECTOR_BYTES,
        )
        for g in range(TOGETHER)
        for half in range(2)
    ]
    # Neighbours are added, of two vectors at a time, until each word is the sum of one of them.
    lanes = ir.VectorType(_COUNT, N_BITS)
    even, odd = (ir.Constant(lanes, list(range(k, 2 * N_BITS, 2))) for k in (0, 1))
    while len(found) > 1:
        pairs = zip(found[::2], found[1::2], strict=True)
        found = [
            builder.add(*(builder.shuffle_vector(*pair, mask) for mask in (even, odd)))
            for pair in pairs
        ]
    # Those that have at least some bits, less those that have one more: that have just these.
    n = TOGETHER * 2**N_LOW
    kind = ir.VectorType(ir.IntType(16), n)
    counts = builder.bitcast(found[0], kind)
    for i in range(N_LOW):
        others = [n if v >> i & 1 else v | 1 << i for v in range(n)]  # n: a zero
        mask = ir.Constant(ir.VectorType(_COUNT, n), others)
        more = builder.shuffle_vector(counts, ir.Constant(kind, [0] * n), mask)
        counts = builder.sub(counts, more)
    wide = ir.VectorType(_COUNT, n // 2)
    halves = []
    for start in (0, n // 2):
        mask = ir.Constant(wide, list(range(start, start + n // 2)))
        halves.append(builder.zext(builder.shuffle_vector(counts, counts, mask), wide))
    return halves


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _count_eight(c: Any, tally: Any, row: Any) -> None:
    """Count eight voxels of one row."""
    byte, one = np.uint64(0xFF), np.uint16(1)
    tally[row + (c & byte)] += one
    tally[row + np.uint64(256) + ((c >> np.uint64(8)) & byte)] += one
    tally[row + np.uint64(512) + ((c >> np.uint64(16)) & byte)] += one
    tally[row + np.uint64(768) + ((c >> np.uint64(24)) & byte)] += one
    tally[row + ((c >> np.uint64(32)) & byte)] += one
    tally[row + np.uint64(256) + ((c >> np.uint64(40)) & byte)] += one
    tally[row + np.uint64(512) + ((c >> np.uint64(48)) & byte)] += one
    tally[row + np.uint64(768) + (c >> np.uint64(56))] += one


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _flush(
    tally: Any, seen: Any, n_rows: Any, n_columns: Any, table: Any, plane: Any, total: Any,
    met: Any, block: Any,
) -> None:  # fmt: skip
    """Empty the tallies of the rows that were seen into a plane of the table, and the total."""
    top = plane * n_rows * n_columns
    lost = np.uint16(0)
    for r in range(n_rows):
        if seen[r]:
            seen[r], met[block + r] = np.uint8(0), np.uint8(1)
            at, into = r * 1024, r * n_columns
            for c in range(n_columns):
                n = np.uint32(tally[at + c]) + np.uint32(tally[at + 256 + c])
                n += np.uint32(tally[at + 512 + c]) + np.uint32(tally[at + 768 + c])
                table[top + into + c] += n
                total[into + c] += n
            for lane in range(at, at + 1024, 256):
                for c in range(lane + n_columns, lane + 256):
                    lost |= tally[c]
            for c in range(1024):
                tally[at + c] = np.uint16(0)
    if lost:
        met[block + 256] = np.uint8(1)


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _count_line(
    rows: Any, row_words: Any, at_row: Any, row: Any, columns: Any, column_words: Any,
    at_column: Any, n: Any, tally: Any, seen: Any,
) -> None:  # fmt: skip
    """Count ``n`` voxels that lie side by side; ``row`` is that of all of them, or -1."""
    one, held = np.uint16(1), np.uint8(1)
    head, words = n, 0
    if row >= 0 or (at_row & 7) == (at_column & 7):
        head = min(n, -at_column & 7)
        words = (n - head) >> 3
    tail = head + 8 * words
    first = (at_column + head) >> 3
    byte = np.uint64(0xFF)
    if row >= 0:
        seen[row] = held
        base = np.uint64(row) * np.uint64(1024)
        for i in range(head):
            tally[base + np.uint64(columns[at_column + i])] += one
        for w in range(first, first + words):
            _count_eight(column_words[w], tally, base)
        for i in range(tail, n):
            tally[base + np.uint64(columns[at_column + i])] += one
    else:
        shift = ((at_row + head) >> 3) - first
        for i in range(head):
            r = np.uint64(rows[at_row + i])
            seen[r] = held
            tally[r * np.uint64(1024) + np.uint64(columns[at_column + i])] += one
        same, base = np.uint64(0), np.uint64(0)
        if words > 0:
            same = ~row_words[first + shift]
        for w in range(first, first + words):
            eight, c = row_words[w + shift], column_words[w]
            if eight != same:
                r = eight & byte
                if eight != r * np.uint64(0x0101010101010101):
                    for a in range(8):
                        r = (eight >> np.uint64(8 * a)) & byte
                        seen[r] = held
                        at = r * np.uint64(1024) + np.uint64(256 * (a & 3))
                        tally[at + ((c >> np.uint64(8 * a)) & byte)] += one
                    continue
                seen[r] = held
                same, base = eight, r * np.uint64(1024)
            _count_eight(c, tally, base)
        for i in range(tail, n):
            r = np.uint64(rows[at_row + i])
            seen[r] = held
            tally[r * np.uint64(1024) + np.uint64(columns[at_column + i])] += one


@njit(inline="always", error_model="numpy")  # pragma: no cover - compiled
def _count_vectors(columns: Any, n: Any, room: Any, table: Any, total: Any) -> Any:
    """Count what can be of ``n`` voxels of one row by vectors; return how many that are."""
    done = 0
    while n - done >= BLOCK:
        n_blocks = min(MOST_BLOCKS, (n - done) // BLOCK)
        _count_blocks(columns + done, n_blocks, room, table, total)
        done += n_blocks * BLOCK
    return done


@cfunc(types.void(_I64, _INT, _INT, _INT, _INT, _U8, _U8), error_model="numpy", forceinline=True)
def count_bytes(
    jobs: Any, n_jobs: Any, n_rows: Any, n_columns: Any, memory: Any, seen: Any, met: Any
) -> None:  # pragma: no cover - compiled
    """Do jobs, each a row of numbers as ``Jobs`` writes it; say in ``met`` which rows occurred.

    ``memory`` holds the tallies, zero between calls, and ``ROOM_BYTES``; it begins with a line.
    """
    tally: Any = tallies_at(memory)
    room = memory + TALLY_BYTES
    for i in range(n_jobs):
        j = i * 15
        row_start, at_rows, rows_z, rows_y, row = (
            jobs[j], jobs[j + 1], jobs[j + 2], jobs[j + 3], jobs[j + 4]
        )  # fmt: skip
        start, at_columns, columns_z, columns_y = jobs[j + 5], jobs[j + 6], jobs[j + 7], jobs[j + 8]
        n_z, n_y, n_x = jobs[j + 9], jobs[j + 10], jobs[j + 11]
        table: Any = counts_at(jobs[j + 12])
        total: Any = counts_at(jobs[j + 13])
        into = jobs[j + 14] * 257
        rows, row_words = bytes_at(row_start), words_at(row_start)
        columns, column_words = bytes_at(start), words_at(start)
        for z in range(n_z):
            at_row, at_column = at_rows + z * rows_z, at_columns + z * columns_z
            n_lines, n = n_y, n_x
            if columns_y == n_x and (row >= 0 or rows_y == n_x):
                n_lines, n = 1, n_y * n_x  # lines follow on one another
            here = row
            whole = row < 0 and n_lines == 1 and n >= 8 and not ((at_row | n) & 7)
            if whole and _same(row_words, at_row >> 3, n >> 3):
                here = np.int64(rows[at_row])
            held, skipped = 0, 0
            if _HAS_VECTORS and 0 <= here < n_rows and n_lines == 1 and n_columns == 256:
                plane = jobs[j + 12] + 1024 * (z * n_rows + here)
                of_all = jobs[j + 13] + 1024 * here
                skipped = _count_vectors(start + at_column, n, room, plane, of_all)
                if skipped:
                    met[into + here] = np.uint8(1)
            for y in range(n_lines):
                left, done = n - skipped, skipped
                while left > 0:
                    piece = min(left, MOST)
                    if held + piece > MOST:
                        _flush(tally, seen, n_rows, n_columns, table, z, total, met, into)
                        held = 0
                    _count_line(
                        rows, row_words, at_row + y * rows_y + done, here, columns, column_words,
                        at_column + y * columns_y + done, piece, tally, seen,
                    )  # fmt: skip
                    held, left, done = held + piece, left - piece, done + piece
            _flush(tally, seen, n_rows, n_columns, table, z, total, met, into)
        for r in range(n_rows, 256):  # for these there is no place in the table
            met[into + r] |= seen[r]
            seen[r] = np.uint8(0)


@cfunc(
    types.void(
        _U16, _INT, _INT, _U16, _INT, _INT, _INT, _INT, _INT, _INT, _INT, _U32, _U32, _U8
    ),
    error_model="numpy", forceinline=True,
)  # fmt: skip  # pragma: no cover - compiled
def count_numbers(
    rows: Any, rows_z: Any, rows_y: Any, columns: Any, columns_z: Any, columns_y: Any,
    n_z: Any, n_y: Any, n_x: Any, n_rows: Any, n_columns: Any, table: Any, total: Any, seen: Any,
) -> None:  # fmt: skip
    """Count voxels of two bytes, one by one."""
    for z in range(n_z):
        into = z * n_rows * n_columns
        for y in range(n_y):
            a, b = z * rows_z + y * rows_y, z * columns_z + y * columns_y
            for x in range(n_x):
                r = np.int64(rows[a + x])
                at = r * n_columns + np.int64(columns[b + x])
                seen[r] = np.uint8(1)
                table[into + at] += np.uint32(1)
                total[at] += np.uint32(1)


EXPORTED = {"count_bytes": count_bytes, "count_numbers": count_numbers}
