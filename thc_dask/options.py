"""How a source becomes a store: what may be asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from operator import index
from typing import Any

from thc_dask.errors import RequestError
from thc_dask.grid import Box, Vox

MEMORY_BYTES = 2**30  # what the buffers of one process may hold, unless told otherwise


@dataclass(frozen=True)
class Conversion:
    """How a source becomes a store."""

    spacing: str | float | Sequence[float] | None = None
    """Distance of voxel centres with its unit, ``"1.17um"`` or ``"2um,1.17um,1.17um"`` (z, y, x);
    numbers are micrometers; None takes what the source says."""
    levels: int | None = None
    """Levels of the pyramid; None goes on until the longest side is 256 voxels or fewer."""
    chunk: Vox | None = None
    """Voxels (z, y, x) compressed together; None is 64 a side."""
    shard: Vox | None = None
    """Voxels (z, y, x) of one file; None is four chunks a side."""
    codec: str = "zstd"
    """``"zstd"``, tuned to CT noise, or ``"zstd:LEVEL"``."""
    window: str | None = None
    """What becomes 0 and 255: ``"LOW:HIGH"`` in grey levels of the source, ``"p0.1:p99.9"`` as
    percentiles of all its voxels, or ``"auto"``; None is ``"auto"`` for sources of more than 16
    bit, and keeps the grey levels of others."""
    order: str | None = None
    """The source's axes as they stand, ``"xyz"`` for a source of (x, y, z); None takes what the
    source says."""
    flip: str = ""
    """Axes of the result that run backwards: ``"z"``, ``"yx"``."""
    crop: Box | None = None
    """Only voxels whose centre is in this half-open box, micrometers."""
    count: bool = False
    """Count the intensities of the whole image on the way; kept as the table ``image``."""
    memory_bytes: int = MEMORY_BYTES
    """What the buffers of one process may hold."""
    overwrite: bool = False
    """Replace a store that exists."""
    resume: bool = False
    """Go on with a conversion that was interrupted; what it finished is kept."""


def wanted(options: Conversion | None = None, **more: Any) -> Conversion:
    """Return options, with ``more`` of them by name.

    Raises
    ------
    RequestError
        There is no option of that name.
    """
    names = [field.name for field in fields(Conversion)]
    for name in more:
        if name not in names:
            raise RequestError(f"convert: unknown option {name!r}; known: {', '.join(names)}")
    for name in ("chunk", "shard"):
        if more.get(name) is not None:
            more[name] = _three(name, more[name])
    return replace(options or Conversion(), **more)


def _three(name: str, size: Any) -> Vox:
    """Return voxels along z, y and x; one number is that of all three."""
    try:
        z, y, x = (index(n) for n in (size if isinstance(size, Iterable) else (size,) * 3))
    except (TypeError, ValueError):
        raise RequestError(
            f"{name} {size!r}: give a whole number of voxels, or three (z, y, x)"
        ) from None
    return z, y, x
