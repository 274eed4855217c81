"""Memory by its addresses, for kernels in machine code; where numba has no words for it."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic as _intrinsic

intrinsic: Any = _intrinsic  # its type takes the context, which numba gives, for an argument

LINE_BYTES = 64  # that ``copy_line`` copies


def _pointer_to(kind: Any) -> Any:
    """Return what makes an address a pointer."""

    @intrinsic
    def at(_: Any, address: Any) -> Any:  # pragma: no cover - compiled
        def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
            return builder.inttoptr(values[0], context.get_value_type(signature.return_type))

        return types.CPointer(kind)(address), code

    return at


bytes_at = _pointer_to(types.uint8)
counts_at = _pointer_to(types.uint32)  # what tables hold
numbers_at = _pointer_to(types.int64)
tallies_at = _pointer_to(types.uint16)
words_at = _pointer_to(types.uint64)


@intrinsic
def fetch(_: Any, address: Any) -> Any:  # pragma: no cover - compiled
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
def copy_line(_: Any, source: Any, into: Any) -> Any:  # pragma: no cover - compiled
    """Copy ``LINE_BYTES``."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        line = ir.VectorType(ir.IntType(8), LINE_BYTES).as_pointer()
        here, there = (builder.inttoptr(value, line) for value in values)
        builder.store(builder.load(here, align=1), there, align=1)
        return context.get_dummy_value()

    return types.none(source, into), code


@intrinsic
def put_word(_: Any, address: Any, word: Any) -> Any:  # pragma: no cover - compiled
    """Write eight bytes, at any address."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        into = builder.inttoptr(values[0], ir.IntType(64).as_pointer())
        builder.store(values[1], into, align=1)
        return context.get_dummy_value()

    return types.none(address, word), code


@intrinsic
def call(_: Any, function: Any, arguments: Any) -> Any:  # pragma: no cover - compiled
    """Call the C function at an address; all it takes and returns are words."""

    def code(context: Any, builder: Any, signature: Any, values: Any) -> Any:
        word = ir.IntType(64)
        given = cgutils.unpack_tuple(builder, values[1], len(arguments))
        kind = ir.FunctionType(word, [word] * len(given))
        return builder.call(builder.inttoptr(values[0], kind.as_pointer()), given)

    return types.int64(function, arguments), code
