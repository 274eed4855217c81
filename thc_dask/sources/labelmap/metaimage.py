"""Headers of ITK MetaImage, ``.mha`` and ``.mhd``: lines ``Key = value``, the data file last."""

from __future__ import annotations

import os
import re
from typing import Any

import numpy as np

from thc_dask.errors import DataError, RequestError
from thc_dask.files import File, look_at
from thc_dask.sources.labelmap.header import Frame, Header, numbers, several, square

HEAD_BYTES = 64 * 1024
# A MET_LONG has 4 bytes wherever it was written.
TYPES = {
    "MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2",
    "MET_INT": "i4", "MET_UINT": "u4", "MET_LONG": "i4", "MET_ULONG": "u4",
    "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8", "MET_FLOAT": "f4", "MET_DOUBLE": "f8",
}  # fmt: skip


def describe(file: File) -> Header:
    """Return what the header of a MetaImage says.

    Raises
    ------
    MissingError
        The file with the voxels is not there.
    RequestError
        Voxels in several files, as text, or of several channels.
    DataError
        The file is no MetaImage, or damaged.
    """
    with open(file.path, "rb") as handle:
        head = handle.read(HEAD_BYTES)
    last = re.search(rb"^[ \t]*ElementDataFile[ \t]*=[ \t]*(.*?)[ \t]*\r?(?:\n|\Z)", head, re.M)
    if last is None:
        raise DataError(f"metaimage: {file.path} is not a MetaImage: it names no ElementDataFile")
    lines = (line.partition("=") for line in head[: last.end()].decode("latin-1").splitlines())
    fields = {key.strip(): value.strip() for key, _, value in lines}
    try:
        return _described(file, fields, last.end())
    except (ValueError, KeyError) as error:
        if isinstance(error, RequestError):
            raise
        reason = f"no {error.args[0]}" if isinstance(error, KeyError) else error
        raise DataError(f"metaimage: the header of {file.path} makes no sense: {reason}") from error


def _described(file: File, fields: dict[str, str], after: int) -> Header:
    name, n = fields["ElementDataFile"], int(fields["NDims"])
    shape = tuple(int(word) for word in fields["DimSize"].split())
    if len(shape) != n:
        raise ValueError(f"{n} axes, but DimSize {fields['DimSize']}")
    if several(name):
        raise RequestError(f"metaimage: voxels of {file.path} lie in several files; save it as one")
    if int(fields.get("ElementNumberOfChannels", 1)) != 1 or not _true(fields, "BinaryData", "T"):
        raise RequestError(
            f"metaimage: {file.path} has several channels or voxels as text; save one, binary"
        )
    if not name:
        raise ValueError("ElementDataFile is empty")
    skip = int(fields.get("HeaderSize", 0))
    offset: int | None = after
    if name.upper() != "LOCAL":
        file = look_at(os.path.join(os.path.dirname(file.path), name), "metaimage")
        offset = skip if skip >= 0 else None
    packed = _true(fields, "CompressedData", "F")
    if packed and offset is None:
        raise ValueError(f"HeaderSize {skip} before compressed voxels")
    return Header(
        "metaimage", file, shape, _type_of(fields), 0 if packed else offset,
        offset if packed else None, _frame(fields, n),
    )  # fmt: skip


def _true(fields: dict[str, str], key: str, default: str) -> bool:
    return fields.get(key, default)[:1] in ("T", "t", "1")


def _type_of(fields: dict[str, str]) -> np.dtype[Any]:
    name = fields["ElementType"]
    if name not in TYPES:
        raise ValueError(f"ElementType {name}")
    big = _true(fields, "ElementByteOrderMSB", fields.get("BinaryDataByteOrderMSB", "F"))
    return np.dtype((">" if big else "<") + TYPES[name])


def _frame(fields: dict[str, str], n: int) -> Frame:
    sizes = numbers(fields.get("ElementSpacing") or fields.get("ElementSize") or "")
    unit = fields.get("DistanceUnits", "?")
    turned, corner = (
        next((numbers(fields[key]) for key in keys if key in fields), ())
        for keys in (
            ("TransformMatrix", "Rotation", "Orientation"),
            ("Offset", "Position", "Origin"),
        )
    )
    return Frame(
        sizes=tuple(abs(size) for size in sizes),
        unit="mm" if unit == "?" else unit,
        directions=square(turned, n),
        corner=(*corner, 0.0, 0.0, 0.0)[:3],
        space="LPS",
    )
