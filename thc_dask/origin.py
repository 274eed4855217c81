"""From what a store says of its source back to a reader of that source."""

from __future__ import annotations

from typing import Any

from thc_dask import views
from thc_dask.errors import RequestError
from thc_dask.grid import OPPOSITE, parse_extent
from thc_dask.reader import Reader
from thc_dask.sources import open_reader


def reopen(provenance: dict[str, Any], source: Any = None) -> Reader:
    """Return a reader of the very voxels that ``provenance`` describes.

    ``source`` is used instead of the recorded location: for a source that has moved, or that was
    an array in memory. Its place, names and times may be others; whether its voxels are the same
    is for the caller to prove.

    Raises
    ------
    RequestError
        The source cannot be opened again, or is no longer what it was.
    """
    reader = _open(provenance, source)
    now, then = reader.provenance, provenance
    if source is not None:
        now, then = _lasting(now), _lasting(then)
    if now != then:
        odd = next((k for k in {**then, **now} if now.get(k) != then.get(k)), "provenance")
        raise RequestError(
            f"source {provenance.get('location', provenance['kind'])}: its {odd} was "
            f"{then.get(odd)} and is {now.get(odd)} now; the store cannot be mended from it"
        )
    return reader


# What changes when a source is copied, or made again.
FLEETING = {"location", "fingerprint", "first_file", "last_file", "token", "made_from"}


def _lasting(provenance: dict[str, Any]) -> dict[str, Any]:
    kept = {k: v for k, v in provenance.items() if k not in FLEETING}
    if isinstance(kept.get("source"), dict):
        kept["source"] = _lasting(kept["source"])
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


def _open(provenance: dict[str, Any], source: Any) -> Reader:
    kind = provenance["kind"]
    if kind == "reordered":
        inner = _open(provenance["source"], source)
        return views.reorder(inner, provenance["order"], provenance["flip"])
    if kind == "cropped":
        inner = _open(provenance["source"], source)
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
    return open_reader(provenance["location"], (1.0, 1.0, 1.0), "zyx")


def eight_bit(reader: Reader, normalisation: dict[str, Any] | None) -> Reader:
    """Return the reader through the window that a store says it was written with."""
    if normalisation is None:
        return reader
    from thc_dask.kernels.intensity import Window

    return views.EightBit(reader, Window(*normalisation["window"]))
