"""What a label image says of its labels: names, colours, and where they are known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from thc_dask.errors import DataError, RequestError
from thc_dask.grid import Extent
from thc_dask.schemes import Scheme, code_of, kind_of
from thc_dask.sources.omezarr.metadata import multiscale_of
from thc_dask.sources.omezarr.nodes import claims, full_url, image_above, open_node, split


class Described(NamedTuple):
    """What a label image says of itself."""

    scheme: Scheme | None
    """Its codes, None where it names none."""
    extents: list[Extent] | None
    """Where its labels are known, in its own voxels; None where it does not say."""


def describe_labels(location: str) -> Described:
    """Return what the metadata of OME-Zarr labels say; nothing of what is none.

    Raises
    ------
    DataError
        What they say cannot be understood.
    """
    text, level = split(location)
    if not claims(location):
        return Described(None, None)
    node = open_node(full_url(text))
    if hasattr(node, "shape"):
        above = image_above(full_url(text))
        if above is None:
            return Described(None, None)
        text, node, level = above
    attributes = dict(node.attrs)
    if multiscale_of(attributes) is None:
        return Described(None, None)
    ours = attributes.get("thc")
    try:
        if isinstance(ours, Mapping) and "scheme" in ours:
            boxes = [Extent(tuple(a), tuple(b)).level(level or 0) for a, b in ours["extents"]]
            return Described(Scheme.from_dict(ours["scheme"]), boxes)
        ome = attributes.get("ome")
        said = (ome if isinstance(ome, Mapping) else attributes).get("image-label")
        name = text.rstrip("/").rsplit("/", 1)[-1]
        return Described(_scheme(said, name) if isinstance(said, Mapping) else None, None)
    except (KeyError, TypeError, ValueError) as error:
        reason = str(error) if isinstance(error, RequestError) else repr(error)
        raise DataError(
            f"zarr: {text}: what it says of its labels cannot be understood ({reason}); give "
            "--scheme"
        ) from error


def _scheme(said: Mapping[str, Any], name: str) -> Scheme | None:
    """Return the scheme that ``image-label`` comes to, None where it names no label.

    >>> _scheme({"colors": [{"label-value": 2, "rgba": [255, 0, 16, 255]}]}, "cells").labels[1]
    Label(code=2, name='label 2', title='', color='#ff0010')
    """
    found: dict[int, dict[str, Any]] = {}
    for entry in said.get("colors") or []:
        red, green, blue = entry.get("rgba", (128, 128, 128))[:3]
        color = f"#{int(red):02x}{int(green):02x}{int(blue):02x}"
        found[code_of(entry["label-value"])] = {"color": color}
    for entry in said.get("properties") or []:
        label = found.setdefault(code_of(entry["label-value"]), {})
        label["name"] = next((str(entry[k]) for k in ("name", "class", "label") if k in entry), "")
        label["title"] = str(entry.get("title", ""))
    if not any(found):
        return None
    for code, label in found.items():
        label["code"] = code
        label["name"] = label.get("name") or (f"label {code}" if code else "none")
    labels = [found[code] for code in sorted(found)]
    kind = kind_of(str(label["name"]) for label in labels if label["code"])
    source = f"image-label of {name}"
    return Scheme.from_dict({"name": name, "kind": kind, "labels": labels, "source": source})
