"""The manifest of a mosaic, JSON: which tiles there are and where each begins."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from thc_dask.errors import DataError, RequestError
from thc_dask.files import File
from thc_dask.grid import Um, parse_spacing

SUFFIX = ".json"
FORM = '{"spacing": "1.17um", "tiles": [{"path": "a.tif", "offset": [z, y, x]}, ...]}'
KEYS = {"spacing", "tiles", "feather"}
# Weights of three axes times 16 bit voxels, summed over 256 tiles, stay below 2**63.
MOST_FEATHER = 8192


class Entry(NamedTuple):
    """A line of the manifest."""

    path: str
    offset: tuple[float, float, float]
    """First voxel (z, y, x), perhaps between voxels, perhaps below zero."""


class Manifest(NamedTuple):
    """What a manifest says."""

    file: File
    entries: tuple[Entry, ...]
    spacing_um: Um | None
    feather: int


def claims(location: str) -> bool:
    """Whether a location looks like a manifest.

    >>> claims("scan.json"), claims("scan.tif")
    (True, False)
    """
    return location.lower().endswith(SUFFIX)


def parse(file: File) -> Manifest:
    """Return what a manifest says, after a look at every word of it."""
    try:
        with open(file.path, "rb") as handle:
            found = json.load(handle)
    except OSError as error:
        raise DataError(f"mosaic: cannot read {file.path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:  # the second where it is nested without end
        raise RequestError(f"mosaic: {file.path} is not JSON: {error}; write {FORM}") from error
    if not isinstance(found, dict) or not isinstance(found.get("tiles"), list):
        raise RequestError(f"mosaic: {file.path} has no list of tiles; write {FORM}")
    if odd := [*found.keys() - KEYS]:
        raise RequestError(
            f"mosaic: {file.path}: {odd[0]!r} is not known; allowed: {', '.join(sorted(KEYS))}"
        )
    if not found["tiles"]:
        raise RequestError(f"mosaic: {file.path} names no tiles; write {FORM}")
    entries = tuple(_entry(file, i, tile) for i, tile in enumerate(found["tiles"]))
    feather = found.get("feather", MOST_FEATHER)
    if type(feather) is not int or not 0 <= feather <= MOST_FEATHER:
        raise RequestError(
            f"mosaic: {file.path}: feather {feather!r} is not a whole number of voxels from 0 to "
            f"{MOST_FEATHER}"
        )
    return Manifest(file, entries, _spacing(file, found), feather)


def _spacing(file: File, found: dict[str, Any]) -> Um | None:
    if "spacing" not in found:
        return None
    try:
        if not isinstance(found["spacing"], str):  # in a file a number may be anything
            raise RequestError(f"spacing: {found['spacing']!r}")
        return parse_spacing(found["spacing"])
    except RequestError as error:
        raise RequestError(f"mosaic: {file.path}: {error}; write it like 1.17um") from error


def _entry(file: File, number: int, tile: Any) -> Entry:
    where = f"mosaic: {file.path}: tiles[{number}]"
    if not isinstance(tile, dict) or set(tile) != {"path", "offset"}:
        raise RequestError(f'{where}: write {{"path": "a.tif", "offset": [z, y, x]}}')
    path, offset = tile["path"], tile["offset"]
    if not isinstance(path, str) or not path:
        raise RequestError(f"{where}: path {path!r} is not the name of a file")
    if path.lower().endswith(SUFFIX):
        raise RequestError(f"{where}: {path} is a mosaic itself; name its tiles here")
    if (
        not isinstance(offset, list)
        or len(offset) != 3
        # Larger ones are not voxels of anything; JSON also knows NaN.
        or not all(type(o) in (int, float) and abs(o) < 2**40 for o in offset)
    ):
        raise RequestError(f"{where}: offset {offset!r} of {path} is not three numbers [z, y, x]")
    return Entry(path, (offset[0], offset[1], offset[2]))
