"""Object code as memory wants it: sections in a row, and the few places where addresses go.

To have llvmlite link object code, as it does everywhere else, takes 0.02 s and 50 to 100 MB, most
of them its library, for some kilobytes of code that calls nothing but ``memset``. So where object
code is as simple as that (ELF of x86-64 without data of its own) it is laid out once, when it is
compiled, and later only copied.

The fields are those of the ELF-64 object file format and of the System V ABI for x86-64.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

PROGBITS, SYMTAB, RELA, NOBITS, REL = 1, 2, 4, 8, 9  # types of sections
WRITE, ALLOC = 1, 2  # flags of sections
ABSOLUTE, RELATIVE = 1, 24  # R_X86_64_64 and R_X86_64_PC64: what the large code model makes
X86_64 = 62
UNWINDING = ".eh_frame"  # code that raises nothing is never unwound
ALIGNMENT = 64


class OtherCodeError(ValueError):
    """Object code of another kind."""


@dataclass
class Image:
    """Machine code that can lie anywhere, once its addresses are filled in."""

    code: bytearray = field(default_factory=bytearray)
    inside: list[tuple[int, int]] = field(default_factory=list)
    """Where an address goes, and of which place of the image."""
    outside: list[tuple[int, str, int]] = field(default_factory=list)
    """Where an address goes, of which function of the C library, and what is added to it."""

    def add(self, data: bytes, symbol: str) -> int:
        """Add the object code of a function; return where it begins.

        Raises
        ------
        OtherCodeError
            It is not as simple as it must be.
        """
        elf = _Elf(data)
        places: dict[int, int] = {}
        for number, section in enumerate(elf.sections):
            if not section.flags & ALLOC or not section.size or section.name == UNWINDING:
                continue
            if section.type != PROGBITS or section.flags & WRITE:
                raise OtherCodeError(f"section {section.name} is data")
            self.code += bytes(-len(self.code) % ALIGNMENT)
            places[number] = len(self.code)
            self.code += data[section.offset : section.offset + section.size]
        for section in elf.sections:
            if section.type == REL and section.info in places:
                raise OtherCodeError("relocations without addends")
            if section.type == RELA and section.info in places:
                for offset, kind, of, addend in elf.relocations(section):
                    at = places[section.info] + offset
                    self._relocate(places, at, kind, elf.symbols[of], addend)
        [found] = [s for s in elf.symbols if s.name == symbol and s.section in places]
        return places[found.section] + found.value

    def _relocate(
        self, places: dict[int, int], at: int, kind: int, symbol: _Symbol, addend: int
    ) -> None:
        if not symbol.section and kind == ABSOLUTE:
            self.outside.append((at, symbol.name, addend))
            return
        if symbol.section not in places or kind not in (ABSOLUTE, RELATIVE):
            raise OtherCodeError(f"a relocation of kind {kind} of {symbol.name}")
        target = places[symbol.section] + symbol.value + addend
        if kind == ABSOLUTE:
            self.inside.append((at, target))
        else:
            struct.pack_into("<q", self.code, at, target - at)

    def placed(self) -> int:
        """Bring the code into memory, where it stays; return the address of its first byte.

        Raises
        ------
        OSError
            The system lets nobody run code from memory.
        """
        library = ctypes.CDLL(None, use_errno=True)
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        memory = mmap.mmap(-1, len(self.code), flags, mmap.PROT_READ | mmap.PROT_WRITE)
        memory[:] = bytes(self.code)
        base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        for at, target in self.inside:
            struct.pack_into("<Q", memory, at, base + target)
        for at, name, addend in self.outside:
            where = ctypes.cast(getattr(library, name), ctypes.c_void_p).value or 0
            struct.pack_into("<Q", memory, at, where + addend)
        size = -(-len(self.code) // mmap.PAGESIZE) * mmap.PAGESIZE
        done = library.mprotect(
            ctypes.c_void_p(base), ctypes.c_size_t(size), mmap.PROT_READ | mmap.PROT_EXEC
        )
        if done:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        _placed.append(memory)
        return base


_placed: list[mmap.mmap] = []  # own the memory that code lies in


class _Section(NamedTuple):
    name: str
    type: int
    flags: int
    offset: int
    size: int
    link: int
    info: int


class _Symbol(NamedTuple):
    name: str
    section: int
    value: int


class _Elf:
    """What an object file holds."""

    def __init__(self, data: bytes) -> None:
        if data[:6] != b"\x7fELF\x02\x01" or struct.unpack_from("<H", data, 18) != (X86_64,):
            raise OtherCodeError("no object code of x86-64")
        self._data = data
        start = struct.unpack_from("<Q", data, 40)[0]
        step, n, names = struct.unpack_from("<HHH", data, 58)
        raw: list[tuple[Any, ...]] = [
            struct.unpack_from("<IIQQQQIIQQ", data, start + i * step) for i in range(n)
        ]
        self.sections = [
            _Section(self._text(raw[names][4] + r[0]), r[1], r[2], r[4], r[5], r[6], r[7])
            for r in raw
        ]
        self.symbols = [s for table in self.sections if table.type == SYMTAB
                        for s in self._symbols(table)]  # fmt: skip

    def _text(self, at: int) -> str:
        return self._data[at : self._data.index(b"\0", at)].decode()

    def _symbols(self, table: _Section) -> Iterator[_Symbol]:
        names = self.sections[table.link].offset
        for at in range(table.offset, table.offset + table.size, 24):
            name, _, _, section, value, _ = struct.unpack_from("<IBBHQQ", self._data, at)
            yield _Symbol(self._text(names + name), section, value)

    def relocations(self, section: _Section) -> Iterator[Sequence[int]]:
        """Yield offset, kind, number of the symbol and addend."""
        for at in range(section.offset, section.offset + section.size, 24):
            offset, info, addend = struct.unpack_from("<QQq", self._data, at)
            yield offset, info & 0xFFFFFFFF, info >> 32, addend
