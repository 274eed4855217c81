"""Find the array that a path or URL means, and what is written about it."""

from __future__ import annotations

import json
import math
import os
import re
import warnings
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, NamedTuple

from thc_dask.errors import DataError, MissingError, RequestError, ThcError, UnfinishedError
from thc_dask.remote import Remote, is_remote, zarr_place
from thc_dask.sources.omezarr.metadata import (
    KNOWN,
    Lattice,
    lattice_of_coordinates,
    lattice_of_level,
    level_paths,
    multiscale_of,
)

MOST_NAMES = 8  # of an error
MOST_FILES = 200_000  # whose sizes and times are asked for: a second or two
MOST_OBJECTS = 100_000  # that are listed over a network: a hundred requests
BEGUN = "thc/plan.json"  # of a store of ours that has no root yet
METADATA = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}
TAGS = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "created", "updated")


class Found(NamedTuple):
    """An array, and what its surroundings say of it."""

    url: str
    """Of the array itself."""
    array: Any
    lattice: Lattice
    documents: list[Any]
    """What is known of it without reading it; anything else would mean other voxels."""

    def with_contents(self) -> Found:
        """Return the same with names, sizes and times of its chunks among the documents."""
        return self._replace(documents=[*self.documents, contents(self.url, self.array)])


def claims(location: str) -> bool:
    """Whether a location looks like one of a zarr array, group or image.

    >>> claims("s3://bucket/v.ome.zarr/labels/roi#level=1"), claims("v.zarr/0"), claims("v.tif")
    (True, True, False)
    """
    if re.search(r"\.zarr(/|[?#]|$)", location, re.IGNORECASE):
        return True
    names = ("zarr.json", ".zarray", ".zgroup", BEGUN)
    return any(os.path.isfile(os.path.join(split(location)[0], name)) for name in names)


def split(location: str | os.PathLike[str]) -> tuple[str, int | None]:
    """Return a path or URL, and the level that is named behind it.

    >>> split("v.ome.zarr#level=1"), split("v.zarr/0/?level=2"), split("v.zarr")
    (('v.ome.zarr', 1), ('v.zarr/0', 2), ('v.zarr', None))
    """
    text = os.fspath(location)
    found = re.fullmatch(r"(.*?)/?[?#]level=(\d+)", text)
    if found:
        return found[1], int(found[2])
    return text.rstrip("/") or text, None


def full_url(text: str) -> str:
    """Return a URL as it is, a path as an absolute one: workers may stand elsewhere."""
    text = text.removeprefix("file://")
    return text if "://" in text else os.path.abspath(text)


def open_node(url: str) -> Any:
    """Return the array or group at a path or URL.

    Raises
    ------
    MissingError, UnfinishedError, RequestError, DataError
        There is none, or not yet, its address or codec is not known, or it cannot be read.
    """
    import zarr

    if "://" not in url and os.path.isfile(url):
        raise RequestError(f"zarr: {url} is a file; name the folder of a zarr array or group")
    try:
        if is_remote(url):
            return Remote(url).reading(lambda: zarr.open(zarr_place(url), mode="r"))
        return zarr.open(url, mode="r")
    except ThcError:
        raise
    except Exception as error:
        raise _reason(url, error) from error


def _reason(url: str, error: Exception) -> Exception:
    """Return what to raise for what zarr or a file system raised."""
    text = " ".join(str(error).split()) or type(error).__name__
    text = f"its metadata lack {text}" if isinstance(error, KeyError) else text
    # Some of these have other bases from version to version of zarr.
    if isinstance(error, FileNotFoundError) or type(error).__name__.endswith("NotFoundError"):
        if _is_begun(url):
            return UnfinishedError(
                f"zarr: {url} is not finished: its conversion is still running, or was "
                "interrupted; wait for it, or convert it again with --resume"
            )
        return MissingError(f"zarr: there is no zarr array or group at {url}; check the path")
    if "rotocol not known" in text or isinstance(error, ImportError):
        return RequestError(f"zarr: {url}: this kind of address cannot be opened: {text}")
    if isinstance(error, OSError):
        return DataError(f"zarr: {url} cannot be reached: {text}")
    return DataError(f"zarr: {url} cannot be opened: {text}")


def _is_begun(url: str) -> bool:
    """Whether a conversion of ours began at a path or URL."""
    if is_remote(url):
        return Remote(url).get(BEGUN) is not None
    return os.path.isfile(os.path.join(url, BEGUN))


def digest_of(array: Any) -> str:
    """Return the metadata of an array as text that is the same for the same array."""
    return json.dumps(array.metadata.to_dict(), sort_keys=True, default=str)


def find(url: str, level: int | None) -> Found:
    """Return the array that is meant: a level of an image, or the only volume of a group."""
    node = open_node(url)
    if _is_array(node):
        if level is not None:
            raise RequestError(f"zarr: {url} is one array, so it has no level {level}")
        return _around(url, node)
    image = multiscale_of(node.attrs)
    if image is not None:
        return _level(url, node, image, level or 0)
    if level is not None:
        raise RequestError(f"zarr: {url} is no multiscale image, so it has no level {level}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what lies there and is not zarr's
        members = dict(node.members())
    volumes = [name for name, m in members.items() if _is_array(m) and m.ndim >= 3]
    if len(volumes) == 1:
        return _around(f"{url}/{volumes[0]}", members[volumes[0]])
    listed = [f"{name}{m.shape if _is_array(m) else '/'}" for name, m in sorted(members.items())]
    more = [f"{len(listed) - MOST_NAMES} more"] if len(listed) > MOST_NAMES else []
    raise RequestError(
        f"zarr: {url} is a group without an image of its own; name one of what it holds: "
        f"{', '.join(listed[:MOST_NAMES] + more) or 'nothing'}"
    )


def contents(url: str, array: Any) -> list[list[Any]]:
    """Return names, sizes and times of change of an array's chunks.

    Of a very large array on this machine some are known by name only. Elsewhere the listing is
    asked for, with the tags that it may hold; nothing is known where there is none, as on the web,
    or where it would take very long.
    """
    if "://" not in url:
        return sorted(_files(url))
    n_objects = math.prod(
        math.ceil(n / c) for n, c in zip(array.shape, _objects(array), strict=True)
    )
    if url.startswith(("http://", "https://")) or n_objects > MOST_OBJECTS:
        return []
    if is_remote(url):
        try:
            return sorted(
                [f"/{m.key}", m.n_bytes, m.tag] for m in Remote(url).list() if _is_data(m.key)
            )
        except ThcError:  # who may read need not be allowed to list
            return []
    import fsspec

    try:
        files, root = fsspec.core.url_to_fs(url)
        found = files.find(root, detail=True)
    except Exception:  # every file system has errors of its own, and need not list
        return []
    return sorted(
        [path.removeprefix(root), info.get("size"), *(str(info.get(tag)) for tag in TAGS)]
        for path, info in found.items()
        if _is_data(path)
    )


def _is_data(path: str) -> bool:
    return path.rsplit("/", 1)[-1] not in METADATA


def _objects(array: Any) -> tuple[int, ...]:
    """Return how many elements an object holds along each dimension."""
    sizes: tuple[int, ...] = getattr(array, "shards", None) or array.chunks
    return sizes


def _files(folder: str) -> Iterator[list[Any]]:
    left = MOST_FILES
    for here, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(set(names) - METADATA):
            path = os.path.join(here, name)
            row: list[Any] = [os.path.relpath(path, folder)]
            if left > 0:
                with suppress(OSError):  # it is missed when it is read
                    found = os.stat(path)
                    row += [found.st_size, found.st_mtime_ns]
            left -= 1
            yield row


def _is_array(node: Any) -> bool:
    return hasattr(node, "shape")


def _level(url: str, group: Any, image: dict[str, Any], level: int) -> Found:
    paths = level_paths(image)
    if not paths:
        raise RequestError(
            f"zarr: {url} is a multiscale image of an unknown version; {KNOWN}: name an array in "
            "it, and give --spacing"
        )
    if level >= len(paths):
        raise MissingError(f"zarr: {url} has no level {level}; it has 0 to {len(paths) - 1}")
    array = open_node(f"{url}/{paths[level]}")
    if not _is_array(array):
        raise DataError(f"zarr: {url}/{paths[level]} should be the array of level {level}")
    lattice = lattice_of_level(image, level, array.shape, url)
    attributes = dict(group.attrs)
    ours = attributes.pop("thc", None)
    found = Found(f"{url}/{paths[level]}", array, lattice, [digest_of(array), attributes])
    if isinstance(ours, dict) and isinstance(ours.get("digest"), str):
        # Our own digest is of all voxels; the rest of the record changes with every label set.
        found.documents.append(ours["digest"])
        return found
    return found.with_contents()


def image_above(url: str) -> tuple[str, Any, int] | None:
    """Return where the image is that an array is a level of, its group, and which level."""
    for up in (1, 2):
        group = _group_above(url, up)
        image = None if group is None else multiscale_of(group.attrs)
        if image is not None:
            parent, *rest = url.rsplit("/", up)
            paths = level_paths(image)
            if "/".join(rest) in paths:
                return parent, group, paths.index("/".join(rest))
    return None


def _around(url: str, array: Any) -> Found:
    """Return an array with what the groups above it say of it."""
    above = image_above(url)
    if above is not None:
        parent, group, level = above
        image = multiscale_of(group.attrs)
        assert image is not None
        return _level(parent, group, image, level)
    names, group = _names(array), _group_above(url, 1)
    coordinates = {} if group is None else _coordinates(group, array)
    lattice = lattice_of_coordinates(names, coordinates)
    return Found(url, array, lattice, [digest_of(array)]).with_contents()


def _group_above(url: str, up: int) -> Any:
    """Return the group so many steps above an array, None where there is none."""
    parent, *rest = url.rsplit("/", up)
    if len(rest) < up or not parent or parent.endswith("/"):
        return None
    try:
        node = open_node(parent)
    except (MissingError, UnfinishedError, RequestError, DataError):
        return None  # what is above an array need not be zarr's, nor be readable
    return None if _is_array(node) else node


def _names(array: Any) -> tuple[str, ...]:
    """Return the names of an array's dimensions, in zarr v3 or in xarray's v2."""
    names = getattr(array.metadata, "dimension_names", None)
    names = names or array.attrs.get("_ARRAY_DIMENSIONS") or ()
    if len(names) != array.ndim:
        names = [None] * array.ndim
    return tuple(str(name or "?").lower() for name in names)


def _coordinates(group: Any, array: Any) -> dict[str, tuple[Any, str]]:
    found = {}
    for name, size in zip(_names(array), array.shape, strict=False):
        values = group.get(name)
        if _is_array(values) and values.shape == (size,) and values.dtype.kind in "uif":
            found[name] = (values[...], str(values.attrs.get("units", "")))
    return found
