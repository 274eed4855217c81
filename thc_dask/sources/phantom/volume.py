"""The volume itself: any block of image or labels, made from its position, shape and seed.

It has the geometry of plane 309 of the real volume and its grey levels, region by region;
regions scale with the shape, structures have their size in micrometers (bundles of fibres
shrink by up to a half in small volumes). Any block is made without the rest.
"""

from __future__ import annotations

import functools
import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import Grid, Vox, blocks, parse_triple

Channel = Literal["image", "roi", "microstructure"]

GENERATOR = 1  # to be raised by any change that changes a voxel
DEFAULT_SHAPE: Vox = (128, 256, 768)
SCHEME_OF = {"roi": "prasad2020-roi", "microstructure": "prasad2020-microstructure"}

# One tile's scratch stays in the cache.
_TILE: Vox = (32, 64, 512)
_LONGEST = 2**24  # float32 counts voxels exactly up to here

VESSEL, CELL, AXON = 1, 2, 3  # of scheme prasad2020-microstructure

# Vessels: salt, pitch of their lattice, share of joined sites, radii (um), shadow.
_CAPILLARIES = (31, 78.0, 0.5, 3.0, 6.0, 215.0)
_TRUNKS = (41, 420.0, 0.3, 8.0, 14.0, 245.0)


def _boundary(curve: dict[str, Any], along: int, across: int) -> list[float]:
    """Return a row of the table of boundaries: knots at even fractions, corners rounded."""
    n = 512
    values = np.interp(np.arange(n + 1) / n * along, *np.array(curve["knots"], np.float64).T)
    for _ in range(24):
        values[1:-1] = (values[:-2] + 2 * values[1:-1] + values[2:]) / 4
    # Rounding hides the last bit, in which interpolation may differ between machines.
    return [*curve["bend"], *np.round(values / across, 6)]


@functools.lru_cache(maxsize=64)
def _scene(shape: Vox, seed: int, spacing_um: float) -> tuple[Any, ...]:
    """Return seed, frame, boundaries and looks of the regions, as the kernels take them."""
    from thc_dask.kernels.phantom import LOOK

    data = json.loads(Path(__file__).with_name("anatomy.json").read_text(encoding="utf-8"))
    names, (ny, nx) = LOOK.names or (), data["shape_yx"]
    rows = [_boundary(curve, nx, ny) for curve in data["y_of_x"].values()]
    rows += [_boundary(curve, ny, nx) for curve in data["x_of_y"].values()]
    looks = np.array([tuple(x[name] for name in names) for x in data["looks"].values()], LOOK)
    looks["y"] /= ny
    looks["x"] /= nx
    # A volume smaller than a few bundles would have the fractions of no region.
    small = min(1.0, max(0.5, math.sqrt(shape[1] * spacing_um / (ny * 1.17))))
    for size in ("long_um", "wide_um", "deep_um"):
        looks[size] *= np.float32(small)
    frame = tuple(np.float32(n) for n in (*shape, spacing_um))
    return np.uint32(seed), frame, np.array(rows, np.float32), looks


@dataclass(frozen=True)
class Phantom:
    """A synthetic volume, or one of its label sets: a ``thc_dask.reader.Reader``.

    The voxels depend on these fields and on nothing else: not on the block that is read, nor on
    the machine.

    Raises
    ------
    RequestError
        A size, the seed, the spacing or the channel is out of range.

    Examples
    --------
    >>> from thc_dask.grid import Extent
    >>> from thc_dask.reader import read
    >>> phantom = Phantom((8, 64, 128), seed=1)
    >>> block = read(phantom, Extent((4, 0, 0), (5, 64, 128)))
    >>> block.dtype, block.shape
    (dtype('uint8'), (1, 64, 128))
    >>> sorted(set(read(phantom.labels("roi"), phantom.grid.extent).ravel().tolist()))
    [0, 1, 2, 3, 4, 5, 6, 7, 8]
    """

    shape: Vox = DEFAULT_SHAPE
    """Voxels (z, y, x)."""
    seed: int = 0
    """Which volume: 0 to 2**32 - 1."""
    spacing_um: float = 1.17
    """Distance between voxel centres along every axis, 0.1 to 10 micrometers."""
    channel: Channel = "image"
    """Grey levels, region codes or structure codes."""

    def __post_init__(self) -> None:
        if len(self.shape) != 3 or not all(1 <= n <= _LONGEST for n in self.shape):
            raise RequestError(
                f"phantom shape {self.shape}: give z,y,x, each from 1 to {_LONGEST} voxels"
            )
        if not 0 <= self.seed < 2**32:
            raise RequestError(
                f"phantom seed {self.seed}: give a whole number from 0 to {2**32 - 1}"
            )
        if not 0.1 <= self.spacing_um <= 10:
            raise RequestError(f"phantom spacing {self.spacing_um} um: give 0.1 to 10 um")
        if self.channel not in get_args(Channel):
            raise MissingError(
                f"phantom channel {self.channel!r}: known are {', '.join(get_args(Channel))}"
            )

    @property
    def grid(self) -> Grid:
        """Shape in voxels, spacing and origin in micrometers."""
        return Grid(self.shape, (self.spacing_um,) * 3)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of a voxel: uint8."""
        return np.dtype(np.uint8)

    @property
    def unit(self) -> Vox:
        """The smallest box a read makes: one voxel."""
        return (1, 1, 1)

    @property
    def provenance(self) -> dict[str, Any]:
        """All that the voxels depend on, ready for JSON."""
        return {
            "kind": "phantom",
            "version": GENERATOR,
            "channel": self.channel,
            "shape": list(self.shape),
            "spacing_um": self.spacing_um,
            "seed": self.seed,
        }

    def labels(self, name: str) -> Phantom:
        """Return the label set ``roi`` or ``microstructure`` of the same volume.

        Their schemes are ``SCHEME_OF[name]``.

        Raises
        ------
        MissingError
            There is no such label set.
        """
        if name not in SCHEME_OF:
            raise MissingError(f"phantom label set {name!r}: known are {', '.join(SCHEME_OF)}")
        return replace(self, channel=name)  # type: ignore[arg-type]

    def read_into(self, out: NDArray[Any], start: Vox) -> None:
        """Fill ``out``, uint8 (z, y, x), with the voxels from ``start`` on.

        Raises
        ------
        RequestError
            ``out`` is of another type, or reaches outside the volume.
        """
        stop = tuple(a + n for a, n in zip(start, out.shape, strict=True))
        if out.dtype != np.uint8 or min(start) < 0 or any(map(int.__gt__, stop, self.shape)):
            raise RequestError(
                f"phantom {self.shape}: cannot fill {out.dtype} {out.shape} from voxel {start}"
            )
        for tile in blocks(out.shape, _TILE):
            first = tuple(a + b for a, b in zip(start, tile.start, strict=True))
            self._draw(out[tile.slices], first)  # type: ignore[arg-type]

    def _draw(self, out: NDArray[np.uint8], start: Vox) -> None:
        # Compiling, or loading what was compiled, takes seconds: only who draws waits for it.
        from thc_dask.kernels import drawing, phantom

        scene = _scene(self.shape, self.seed, self.spacing_um)
        fields = phantom.grow_fields(scene, start, out.shape, 1 if self.channel == "roi" else 3)
        if self.channel == "roi":
            phantom.draw_regions(scene, start, out)
        else:
            dark, code = _structures(scene, start, out.shape)
        if self.channel == "image":
            drawing.expose(_salted(self.seed, 51), fields, dark, start, out)
            return
        if self.channel == "microstructure":
            out[...] = code
            drawing.fill_above(fields[2], AXON, start, out)
        drawing.clear_below(fields[0], start, out)


def _salted(seed: int, salt: int) -> np.uint32:
    return np.uint32((seed + salt) % 2**32)


def _structures(scene: Any, start: Vox, size: Vox) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return shadow and codes of the cells and vessels in a block."""
    from thc_dask.kernels import drawing, phantom

    um = scene[1][3]
    dark, code = np.zeros(size, np.uint8), np.zeros(size, np.uint8)
    drawing.draw_balls(phantom.place_cells(scene, start, size), CELL, start, dark, code)
    for salt, *numbers in (_CAPILLARIES, _TRUNKS):
        pitch, share, thin, wide, shade = (np.float32(v) for v in numbers)
        tubes = phantom.place_vessels(
            _salted(int(scene[0]), salt), start, size, pitch / um, share, thin / um, wide / um
        )
        drawing.draw_tubes(tubes, shade, VESSEL, start, dark, code)
    return dark, code


def open_phantom(location: str) -> Phantom:
    """Return the volume that ``phantom:z,y,x?seed=3&channel=roi`` names; defaults may be left out.

    Raises
    ------
    RequestError
        The text is of another form, or a value is not allowed.

    Examples
    --------
    >>> open_phantom("phantom:").shape
    (128, 256, 768)
    >>> open_phantom("phantom:64,128,256?seed=3&channel=roi")
    Phantom(shape=(64, 128, 256), seed=3, spacing_um=1.17, channel='roi')
    """
    form = "write phantom:z,y,x?seed=0&spacing_um=1.17&channel=image"
    kind, _, rest = location.partition(":")
    if kind != "phantom":
        raise RequestError(f"source {location!r} is no phantom; {form}")
    size, _, query = rest.partition("?")
    if size and size.count(",") != 2:
        raise RequestError(f"source {location!r}: {size!r} is not three sizes; {form}")
    fields: dict[str, Any] = {"shape": parse_triple(size, "phantom shape")} if size else {}
    kinds: dict[str, Callable[[str], Any]] = {"seed": int, "spacing_um": float, "channel": str}
    for key, text in parse_qsl(query, keep_blank_values=True):
        if key not in kinds or key in fields:
            raise RequestError(f"source {location!r}: {key!r} is unknown or given twice; {form}")
        try:
            fields[key] = kinds[key](text)
        except ValueError:
            raise RequestError(f"source {location!r}: {key}={text} is no number; {form}") from None
    return Phantom(**fields)
