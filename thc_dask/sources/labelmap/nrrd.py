"""Headers of NRRD, ``.nrrd`` and ``.nhdr``: http://teem.sourceforge.net/nrrd/format.html."""

from __future__ import annotations

import math
import os
import re
from typing import Any

import numpy as np

from thc_dask.errors import DataError, RequestError
from thc_dask.files import File, look_at
from thc_dask.sources.labelmap.header import Frame, Header, numbers, several

HEAD_BYTES = 2**20  # segmentations name every segment there
WORDS = {
    "char": "i1", "int8": "i1", "int8_t": "i1", "uchar": "u1", "uint8": "u1", "uint8_t": "u1",
    "short": "i2", "int16": "i2", "int16_t": "i2", "ushort": "u2", "uint16": "u2",
    "uint16_t": "u2", "int": "i4", "int32": "i4", "int32_t": "i4", "uint": "u4", "uint32": "u4",
    "uint32_t": "u4", "longlong": "i8", "int64": "i8", "int64_t": "i8", "ulonglong": "u8",
    "uint64": "u8", "uint64_t": "u8", "float": "f4", "double": "f8",
}  # fmt: skip
SPACES = {
    "right-anterior-superior": "RAS",
    "left-anterior-superior": "LAS",
    "left-posterior-superior": "LPS",
}
ENCODINGS = ("raw", "gzip", "gz")


def describe(file: File) -> Header:
    """Return what the header of an NRRD file says.

    Raises
    ------
    MissingError
        The file with the voxels is not there.
    RequestError
        Voxels in several files, or encoded otherwise than raw or by gzip.
    DataError
        The file is no NRRD file, or damaged.
    """
    with open(file.path, "rb") as handle:
        head = handle.read(HEAD_BYTES)
    if not head.startswith(b"NRRD000"):
        raise DataError(f"nrrd: {file.path} is not an NRRD file")
    blank = re.search(rb"\n\r?\n", head)
    text = head[: blank.start() if blank else None].decode("latin-1")
    fields = dict(re.findall(r"^([^#:=\n][^:=\n]*):(?!=) *(.*?)\s*$", text, re.M))
    fields = {key.lower().replace(" ", ""): value for key, value in fields.items()}
    try:
        return _described(file, fields, blank.end() if blank else None)
    except (ValueError, KeyError) as error:
        if isinstance(error, RequestError):
            raise
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else error
        raise DataError(f"nrrd: the header of {file.path} makes no sense: {reason}") from error


def _described(file: File, fields: dict[str, str], after: int | None) -> Header:
    name = fields.get("datafile")
    if name is None and after is None:
        raise ValueError("no blank line before the voxels")
    shape = tuple(int(word) for word in fields["sizes"].split())
    if len(shape) != int(fields["dimension"]):
        raise ValueError(f"dimension {fields['dimension']}, but sizes {fields['sizes']}")
    encoding = fields["encoding"].lower()
    skip, lines = int(fields.get("byteskip", 0)), int(fields.get("lineskip", 0))
    if encoding not in ENCODINGS or lines:
        raise RequestError(
            f"nrrd: {file.path} has encoding {fields['encoding']}, line skip {lines}; save it with "
            "encoding raw or gzip, without lines to skip"
        )
    begin = after or 0
    if name is not None:
        if several(name):
            raise RequestError(f"nrrd: voxels of {file.path} lie in several files; save it as one")
        file = look_at(os.path.join(os.path.dirname(file.path), name), "nrrd")
        begin = 0
    raw = encoding == "raw"
    if skip < (-1 if raw else 0):
        raise ValueError(f"byte skip {skip}")
    offset = skip if not raw else begin + skip if skip >= 0 else None
    return Header(
        "nrrd", file, shape, _type_of(fields), offset, None if raw else begin, _frame(fields)
    )


def _type_of(fields: dict[str, str]) -> np.dtype[Any]:
    words = fields["type"].lower().split()
    word = "".join(w for w in words if w != "signed").replace("unsigned", "u")
    word = "short" if word == "shortint" else "ushort" if word == "ushortint" else word
    code = WORDS.get(word.replace("longlongint", "longlong"))
    if code is None:
        raise ValueError(f"type {fields['type']}")
    if code[1] == "1":
        return np.dtype(code)
    order = {"little": "<", "big": ">"}.get(fields["endian"].lower())
    if order is None:
        raise ValueError(f"endian {fields['endian']}")
    return np.dtype(order + code)


def _frame(fields: dict[str, str]) -> Frame:
    units = set(re.findall(r'"(.*?)"', fields.get("spaceunits") or fields.get("units") or ""))
    # Without a word on units, programs that write NRRD mean millimeters.
    unit = (units - {""} or {"mm"}).pop() if len(units) < 2 else ""
    given = fields.get("spacedirections", "").replace("none", "(nan)")
    vectors = [numbers(vector) for vector in re.findall(r"\(([^)]*)\)", given)]
    if not vectors:
        return Frame(sizes=numbers(fields.get("spacings", "")), unit=unit)
    if max(map(len, vectors)) > 3:
        raise ValueError(f"space directions {given}")
    columns = np.eye(3)
    for i, vector in enumerate(vectors[:3]):
        columns[:, i] = (*vector, 0.0, 0.0)[:3]
    space = fields.get("space", "").lower().removesuffix("-time")
    corner = numbers(fields.get("spaceorigin", "").strip("()"))
    return Frame(
        sizes=tuple(math.hypot(*vector) for vector in vectors),
        unit=unit,
        directions=columns,
        corner=(*corner, 0.0, 0.0, 0.0)[:3],
        space=SPACES.get(space, space.upper() if space.upper() in SPACES.values() else ""),
    )
