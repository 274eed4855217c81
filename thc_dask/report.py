"""The report of a store: its panels, the numbers behind them and where they come from."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from thc_dask import __version__
from thc_dask.figures import Panel, panels
from thc_dask.grid import Box
from thc_dask.info import info
from thc_dask.page import Section, render_report
from thc_dask.store.filesink import write_file
from thc_dask.store.read import store_of


def sections(volume: Any, found: Iterable[Panel]) -> list[Section]:
    """Return the parts of a store's report around its panels."""
    store = store_of(volume)
    facts = info(store)
    parts = [Section("The volume", [_describe(facts)], facts=_geometry(facts))]
    parts += [
        Section(
            f"{panel.letter}. {panel.title}",
            figure=panel.figure,
            caption=panel.caption,
            tables=panel.tables,
            notes=panel.notes,
            png=panel.png,
        )
        for panel in found
    ]
    parts.append(Section("Provenance", facts=_provenance(facts)))
    return parts


def _describe(facts: dict[str, Any]) -> str:
    z, y, x = facts["shape"]
    size = " x ".join(f"{s:g}" for s in facts["size_um"])
    names = ", ".join(facts["labels"]) or "none"
    return (
        f"{z} x {y} x {x} voxels (z, y, x), {facts['n_vox']:,} in all, of {facts['dtype']}; "
        f"{size} um. Label sets: {names}."
    )


def _geometry(facts: dict[str, Any]) -> dict[str, Any]:
    shown = {
        "store": facts["store"],
        "spacing (z, y, x)": f"{', '.join(f'{s:g}' for s in facts['spacing_um'])} um",
        "levels": len(facts["levels"]),
    }
    for name, labels in facts["labels"].items():
        shown[f"label set {name}"] = (
            f"{labels['kind']}s after {labels['scheme']}; known on {labels['n_planes']} planes, "
            f"{labels['n_known_vox']:,} voxels"
        )
        if "interpolated" in labels:
            made = labels["interpolated"]
            shown[f"label set {name}"] += (
                f"; interpolated between the {len(made['annotated_planes'])} annotated planes of "
                f"{made['source']} ({made['state']})"
            )
    return shown


def _provenance(facts: dict[str, Any]) -> dict[str, Any]:
    labels = {f"labels {name}": x["provenance"] for name, x in facts["labels"].items()}
    return {
        "software": f"thc_dask {__version__}",
        "store written by": facts["software"],
        "source": facts["provenance"],
        "normalisation": facts["normalisation"] or "none: grey levels are the source's",
        **labels,
        "digest of the image": facts["digest"],
        "tables": facts["tables"] or "none: answers come from voxels",
    }


def write_page(path: str | os.PathLike[str], title: str, parts: Sequence[Section]) -> Path:
    """Write sections as one HTML file."""
    write_file(path, render_report(title, parts).encode())
    return Path(path)


def report(
    volume: Any,
    out: str | os.PathLike[str] = "report.html",
    *,
    by: str | None = None,
    of: str | None = None,
    box: Box | None = None,
) -> Path:
    """Write the report of a store as one HTML file that opens offline; return its path.

    Parameters
    ----------
    volume
        Path, URL or opened volume.
    out
        The file.
    by, of
        Label sets of regions and of structures; by default the first of each kind.
    box
        Only voxels whose centre is in this half-open box, micrometers.

    Raises
    ------
    MissingError
        There is no label set.
    WriteError
        The file cannot be written.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> from thc_dask import convert, labels
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr")
    >>> volume = labels("phantom:32,64,96?channel=roi", volume, "roi", "prasad2020-roi")
    >>> report(volume, mkdtemp() + "/report.html").name
    'report.html'
    """
    store = store_of(volume)
    parts = sections(store, panels(store, by, of, box))
    return write_page(out, f"Report of {Path(store.url).name}", parts)
