"""The voxel size that ImageJ and OME metadata give."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from thc_dask.errors import RequestError
from thc_dask.grid import Um
from thc_dask.units import micrometers


def spacing_of(path: Path, kind: str) -> Um:
    """Return the voxel size (z, y, x) that the first page of a file gives for all three axes."""
    import tifffile

    sizes: list[float] = []
    if kind == "tiff":
        with tifffile.TiffFile(path, is_ome=False) as tif:
            page: Any = tif.pages.first
            if page.is_ome:
                sizes = _ome_spacing(ome_pixels(page)[0])
            elif tif.is_imagej:
                sizes = _imagej_spacing(tif.imagej_metadata or {}, page)
    if not sizes or not all(math.isfinite(size) and size > 0 for size in sizes):
        raise RequestError(f"slices: no voxel size in {path}; give it as --spacing 1.17um")
    return sizes[0], sizes[1], sizes[2]


def _length_um(value: float, unit: str) -> float:
    """Return micrometers; 0 where the unit is not one of length, such as ``pixel``."""
    return micrometers(value, unit.replace("\\u00B5", "µ")) or 0.0


def ome_pixels(page: Any) -> list[dict[str, str]]:
    """Return the attributes of each Pixels element of the OME-XML."""
    from xml.etree import ElementTree

    root = ElementTree.fromstring(page.description)
    return [dict(e.attrib) for e in root.iter() if e.tag.rpartition("}")[2] == "Pixels"]


def _ome_spacing(pixels: dict[str, str]) -> list[float]:
    keys = [f"PhysicalSize{axis}" for axis in "ZYX"]
    return [_length_um(float(pixels.get(k, 0)), pixels.get(f"{k}Unit", "µm")) for k in keys]


def _imagej_spacing(meta: dict[str, Any], page: Any) -> list[float]:
    def pixel(code: int) -> float:
        n, per = page.tags.valueof(code) or (0, 0)
        # ImageJ keeps six decimals of pixels per unit: more digits than that are noise.
        return float(f"{per / n:.6g}") if n else 0.0

    unit = str(meta.get("unit", ""))
    return [_length_um(v, unit) for v in (float(meta.get("spacing", 0)), pixel(283), pixel(282))]
