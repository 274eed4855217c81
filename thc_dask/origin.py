"""From what a store says of its source back to a reader of that source."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from thc_dask import views
from thc_dask.errors import DataError, MissingError, RequestError, ThcError
from thc_dask.grid import AXES, OPPOSITE, Extent, Grid, Vox, parse_extent
from thc_dask.reader import Reader
from thc_dask.remote import is_remote
from thc_dask.sources import open_reader
from thc_dask.sources.omezarr.nodes import full_url, split
from thc_dask.store.read import Store, stores_behind

LOOKS = 16  # shards that are looked for side by side
OURS = re.compile(r"(?P<root>.*)/(?P<path>\d+/image|(?P<set>labels/(?P<name>[^/]+))/\d+/(?P=name))")

RELATIVE = "a path from the folder that the conversion ran in"
GIVE = "give --source with where that is now"


def reopen(provenance: dict[str, Any], source: Any = None, remedy: str = GIVE) -> Reader:
    """Return a reader of the very voxels that ``provenance`` describes.

    ``source`` is used instead of the recorded location: for a source that has moved, or that was
    an array in memory. Its place, names and times may be others; whether its voxels are the same
    is for the caller to prove. ``remedy`` is what to do where there is nothing.

    Raises
    ------
    RequestError
        The source cannot be opened again, or is no longer what it was.
    """
    reader = _open(provenance, source, remedy)
    now, then = reader.provenance, provenance
    if source is not None:
        now, then = _lasting(now), _lasting(then)
    if now != then:
        named = inmost(provenance)
        elsewhere = f" ({RELATIVE})" if source is None and _is_relative(provenance) else ""
        odd = _odd(then, now)
        while (
            odd == "source" and isinstance(then.get(odd), dict) and isinstance(now.get(odd), dict)
        ):
            then, now = then[odd], now[odd]
            odd = _odd(then, now)
        raise RequestError(
            f"source {named.get('location', named['kind'])}{elsewhere}: its {odd} was "
            f"{then.get(odd)} and is {now.get(odd)} now; the store cannot be mended from it"
        )
    return reader


def _odd(then: dict[str, Any], now: dict[str, Any]) -> str:
    """Return the first key under which two records differ."""
    return next((k for k in {**then, **now} if then.get(k) != now.get(k)), "provenance")


def _is_relative(provenance: dict[str, Any]) -> bool:
    """Return whether a source was named by a path that means another place elsewhere."""
    location = str(inmost(provenance).get("location", "/"))
    return "://" not in location and not os.path.isabs(location)


# What changes when a source is copied, or made again.
FLEETING = {"location", "fingerprint", "first_file", "last_file", "token", "made_from"}


def _lasting(provenance: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in provenance.items() if k not in FLEETING}
    if isinstance(kept.get("source"), dict):
        kept["source"] = _lasting(kept["source"])
    return kept


def identity(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return what tells a source from others in the same place, whichever way that was named.

    Behind an address a fingerprint may be of a description only: what was named stays part of it.

    >>> npy = {"kind": "npy", "location": "v/../a.npy", "fingerprint": "5e02"}
    >>> identity({"kind": "cropped", "source": npy})
    {'kind': 'cropped', 'source': {'kind': 'npy', 'fingerprint': '5e02'}}
    >>> web = {"kind": "zarr", "location": "https://a.org/v.zarr", "fingerprint": "c41d"}
    >>> identity(web) == web
    True
    """
    kept = dict(provenance)
    if isinstance(kept.get("source"), dict):
        kept["source"] = identity(kept["source"])
    if "fingerprint" in kept and "://" not in str(kept.get("location")):
        kept.pop("location", None)
    return kept


def inmost(provenance: dict[str, Any]) -> dict[str, Any]:
    """Return what a source is that was reordered or cropped.

    >>> inmost({"kind": "reordered", "source": {"kind": "zarr"}})
    {'kind': 'zarr'}
    """
    while isinstance(provenance.get("source"), dict):
        provenance = provenance["source"]
    return provenance


def is_reordered(provenance: dict[str, Any]) -> bool:
    """Return whether axes of a source were put in another order or turned round.

    >>> inner = {"kind": "reordered", "source": {"kind": "npy"}}
    >>> is_reordered({"kind": "cropped", "source": inner}), is_reordered({"kind": "npy"})
    (True, False)
    """
    while isinstance(provenance.get("source"), dict) and provenance["kind"] != "reordered":
        provenance = provenance["source"]
    return bool(provenance["kind"] == "reordered")


@dataclass(frozen=True)
class Seen:
    """What of its source a volume shows, once the axes of that are z, y, x."""

    shape: Vox
    """Of the source."""
    flip: str
    """Axes that run backwards in the volume."""
    start: Vox
    """Where the volume begins in the source, flipped."""

    def grid(self, volume: Grid) -> Grid:
        """Return the grid of the source, given that of the volume."""
        z, y, x = (
            t - p * a
            for t, p, a in zip(volume.origin_um, volume.spacing_um, self.start, strict=True)
        )
        return Grid(self.shape, volume.spacing_um, (z, y, x))

    def to_volume(self, box: Extent) -> Extent:
        """Return where a box of the source lies in the volume; it may reach outside."""
        z, y, x = (-a for a in self.start)
        return flipped(box, self.shape, self.flip).shift((z, y, x))


def flipped(box: Extent, shape: Vox, flip: str) -> Extent:
    """Return a box of an array as it lies when axes of that run backwards.

    >>> str(flipped(Extent((1, 0, 2), (3, 4, 3)), (10, 4, 9), "zx"))
    '7:9,0:4,6:7'
    """
    ends = zip(AXES, box.start, box.stop, shape, strict=True)
    pairs = [(n - b, n - a) if axis in flip else (a, b) for axis, a, b, n in ends]
    (z, y, x), (z1, y1, x1) = zip(*pairs, strict=True)
    return Extent((z, y, x), (z1, y1, x1))


def reordered(box: Extent, order: str) -> Extent:
    """Return a box of an array whose axes are named by ``order``, as they are named z, y, x.

    >>> str(reordered(Extent((1, 2, 3), (4, 5, 6)), "xyz"))
    '3:6,2:5,1:4'
    """
    z, y, x = (order.index(axis) for axis in AXES)
    a, b = box.start, box.stop
    return Extent((a[z], a[y], a[x]), (b[z], b[y], b[x]))


def seen_of(provenance: dict[str, Any]) -> Seen | None:
    """Return what of its source a volume shows; None where the record does not tell.

    >>> inner = {"kind": "npy", "shape": [9, 8, 7]}
    >>> inner = {"kind": "reordered", "order": "xyz", "flip": "", "source": inner}
    >>> inner = {"kind": "reordered", "order": "zyx", "flip": "z", "source": inner}
    >>> seen_of({"kind": "cropped", "extent": "2:5,0:8,0:9", "source": inner})
    Seen(shape=(7, 8, 9), flip='z', start=(2, 0, 0))
    """
    start, flip, order = (0, 0, 0), "", order_of(provenance)
    if provenance["kind"] == "cropped":
        start, provenance = parse_extent(provenance["extent"]).start, provenance["source"]
    while provenance["kind"] == "reordered":
        flip += provenance["flip"]
        provenance = provenance["source"]
    shape = provenance.get("shape")
    if shape is None or len(shape) != len(AXES):
        return None
    z, y, x = (int(shape[order.index(axis)]) for axis in AXES)
    return Seen((z, y, x), flip, start)


def order_of(provenance: dict[str, Any]) -> str:
    """Return the axes of a source as they stand, as ``views.reorder`` takes them.

    >>> order_of({"kind": "reordered", "order": "xyz", "flip": "", "source": {"kind": "npy"}})
    'xyz'
    """
    orders = []
    while isinstance(provenance.get("source"), dict):
        orders += [provenance["order"]] if provenance["kind"] == "reordered" else []
        provenance = provenance["source"]
    return next((order for order in orders if order != "zyx"), "zyx")


def is_same_place(labels: dict[str, Any], image: dict[str, Any]) -> bool:
    """Return whether labels come from beside an image: of one OME-Zarr image, or one experiment.

    >>> image = {"kind": "zarr", "location": "v.zarr", "array": "0/image"}
    >>> is_same_place({"kind": "zarr", "location": "v.zarr/labels/roi"}, image)
    True
    """
    one, other = inmost(labels), inmost(image)
    if one["kind"] != other["kind"] or one["kind"] not in ("zarr", "bossdb", "phantom"):
        return False
    if one["kind"] == "phantom":
        return all(one[k] == other[k] for k in ("shape", "seed", "spacing_um"))
    here, there = (whereabout(str(p.get("location", ""))) for p in (one, other))
    if one["kind"] == "bossdb":
        return here.rsplit("/", 1)[0] == there.rsplit("/", 1)[0]
    group, _, _ = here.rpartition("/labels/")
    level = f"{there}/{other.get('array', '')}".rstrip("/").removeprefix(f"{group}/")
    return bool(group) and re.fullmatch(r"s?\d+(/[^/]+)?", level) is not None


def places_of(reader: Reader) -> Iterator[str]:
    """Yield the folders, files and addresses that a reader reads, those of views and tiles too."""
    for inner, record in _sources(reader):
        array = getattr(inner, "array", None)
        if array is not None:
            yield from stores_behind(array)
        place = getattr(inner, "url", None) or record.get("location")
        if isinstance(place, str):
            yield place


def _sources(reader: Any) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Yield the readers that views and mosaics rest on, and what each is, or was computed from."""
    record = reader.provenance
    if isinstance(record.get("source"), dict):
        yield from _sources(reader.source)
        return
    for tile in getattr(reader, "tiles", ()):
        yield from _sources(tile.reader)
    yield reader, inmost(record.get("made_from", record))


def check_complete(reader: Reader) -> None:
    """Raise DataError where a source that is a store of ours lacks a shard.

    To readers of zarr a shard that is not there is one of zeros; receipts know better.
    """
    for inner, record in _sources(reader):
        if record["kind"] == "zarr":
            _check_shards(inner, record)


def _check_shards(reader: Any, record: dict[str, Any]) -> None:
    try:
        # Of an array that was opened as a source the record alone says which zarr it is.
        url = reader.url if hasattr(reader, "url") else getattr(_open(record, None), "url", "")
        found = OURS.fullmatch(url)
        if found is None:
            return
        store = Store(found["root"])
    except ThcError:  # another program's, which names an array just so; or gone, as reading says
        return
    top = f"{found['path']}/c/"
    named = store.book(found["set"] or "image").sound(store.location)
    named = {key: receipt for key, receipt in named.items() if key.startswith(top)}
    if is_remote(store.url) and not store.url.startswith(("http://", "https://")):
        there = set(store.location.keys(found["path"]))
    else:
        with ThreadPoolExecutor(LOOKS) as pool:  # on the web all of this is waiting
            sizes = zip(named, pool.map(store.location.size, named), strict=True)
            there = {key for key, size in sizes if size is not None}
    for key in named:
        if key not in there:
            raise DataError(
                f"source {store.url}/{key} is missing; run thc verify --repair on that store"
            )


def is_within(place: str | os.PathLike[str], folder: str | os.PathLike[str]) -> bool:
    """Return whether a path or URL is a folder, or lies in it, however both are written.

    >>> is_within("file:///a/v.ome.zarr#level=1", "/a/v.ome.zarr"), is_within("/a/v.tif", "/a/v")
    (True, False)
    """
    inner, outer = (whereabout(text) for text in (place, folder))
    return inner == outer or inner.startswith(f"{outer.rstrip('/')}/")


def whereabout(place: str | os.PathLike[str]) -> str:
    """Return a path or URL in one way of writing it."""
    url = full_url(split(place)[0]).rstrip("/") or "/"
    return url if "://" in url else os.path.realpath(url)


def orientation_of(provenance: dict[str, Any]) -> str | None:
    """Return where x, y and z of a medical image point to, however it was reordered.

    >>> orientation_of({"kind": "nifti", "orientation": "RAS"})
    'RAS'
    >>> inner = {"kind": "nifti", "orientation": "RAS"}
    >>> orientation_of({"kind": "reordered", "order": "xzy", "flip": "y", "source": inner})
    'SLA'
    """
    if not isinstance(provenance.get("source"), dict):
        found: str | None = provenance.get("orientation")
        return found
    inner = orientation_of(provenance["source"])
    if inner is None or provenance["kind"] != "reordered":
        return inner
    ends = dict(zip(provenance["order"], reversed(inner), strict=True))  # by axis of the result
    return "".join(OPPOSITE[ends[a]] if a in provenance["flip"] else ends[a] for a in "xyz")


def _open(provenance: dict[str, Any], source: Any, remedy: str = GIVE) -> Reader:
    kind = provenance["kind"]
    if kind == "reordered":
        inner = _open(provenance["source"], source, remedy)
        return views.reorder(inner, provenance["order"], provenance["flip"])
    if kind == "cropped":
        inner = _open(provenance["source"], source, remedy)
        return views.Cropped(inner, parse_extent(provenance["extent"]))
    if source is not None:
        return open_reader(source, (1.0, 1.0, 1.0), "zyx")
    if kind == "phantom":
        from thc_dask.sources.phantom import Phantom

        z, y, x = provenance["shape"]
        spacing, channel = provenance["spacing_um"], provenance["channel"]
        return Phantom((z, y, x), provenance["seed"], spacing, channel)
    if "location" not in provenance:
        raise RequestError(
            f"source: it was {kind!r} in memory, which a store cannot open again; give it as source"
        )
    # Where voxels lie is the store's own knowledge; here only their values matter.
    try:
        return open_reader(provenance["location"], (1.0, 1.0, 1.0), "zyx")
    except MissingError as error:
        reason = str(error).partition(";")[0]
        elsewhere = f", {RELATIVE}" if _is_relative(provenance) else ""
        raise MissingError(
            f"{reason}; the store was made from {provenance['location']}{elsewhere}: {remedy}"
        ) from error


def eight_bit(reader: Reader, normalisation: dict[str, Any] | None) -> Reader:
    """Return the reader through the window that a store says it was written with."""
    if normalisation is None:
        return reader
    from thc_dask.kernels.intensity import Window
    from thc_dask.normalise import RULE

    if normalisation["rule"] != RULE:
        raise RequestError(
            "the store's voxels became 8 bit by another rule, that of an earlier version, and "
            "cannot be made again: convert anew"
        )
    return views.EightBit(reader, Window(*normalisation["window"]))
