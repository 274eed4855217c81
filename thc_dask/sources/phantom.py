"""A synthetic thalamocortical volume: image, label sets and the true answers.

It has the geometry of plane 309 of the real volume and its grey levels, region by region;
regions scale with the shape, structures have their size in micrometers (bundles of fibres
shrink by up to a half in small volumes). Any block is made without the rest.
"""

from __future__ import annotations

import csv
import functools
import json
import math
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args
from urllib.parse import parse_qsl

import numpy as np
from numpy.typing import NDArray

from thc_dask.errors import ExistsError, MissingError, RequestError, ThcError, WriteError
from thc_dask.grid import Extent, Grid, Vox, blocks, parse_triple
from thc_dask.reader import read
from thc_dask.schemes import SCHEMES

Channel = Literal["image", "roi", "microstructure"]

GENERATOR = 1  # to be raised by any change that changes a voxel
DEFAULT_SHAPE: Vox = (128, 256, 768)
SCHEME_OF = {"roi": "prasad2020-roi", "microstructure": "prasad2020-microstructure"}

# One tile's scratch stays in the cache.
_TILE: Vox = (32, 64, 512)
_LONGEST = 2**24  # float32 counts voxels exactly up to here
_SLAB_VOX, _PIECE_VOX = 1 << 26, 1 << 18

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

    data = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
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


def annotated_planes(n_z: int) -> tuple[int, ...]:
    """Return the planes of the volume whose regions count as annotated, rising.

    They are the paper's eight (Prasad et al. 2020, Data Records), scaled from its 720 planes to
    ``n_z``; at least three where there are three.

    Examples
    --------
    >>> annotated_planes(720)
    (109, 159, 209, 259, 309, 359, 409, 459)
    >>> annotated_planes(48)
    (7, 10, 13, 17, 20, 23, 27, 30)
    """
    if n_z <= 3:
        return tuple(range(n_z))
    return tuple(sorted({(2 * plane + 1) * n_z // 1440 for plane in range(109, 460, 50)}))


@dataclass(frozen=True)
class Truth:
    """What a phantom holds, counted with ``np.bincount``; rows are region codes, 0 is none."""

    histogram: NDArray[np.int64]
    """Voxels (region, intensity), 9 x 256."""
    histogram_planes: NDArray[np.int64]
    """The same of the annotated planes only."""
    structures: NDArray[np.int64]
    """Voxels (region, structure), 9 x 4; structure 0 is background."""
    planes: NDArray[np.int64]
    """Voxels (plane, region)."""
    annotated: tuple[int, ...]
    """The annotated planes."""


_Slab = Callable[[int, dict[str, NDArray[np.uint8]]], None]


def _count(truth: Truth, first: int, slab: dict[str, NDArray[np.uint8]]) -> None:
    """Add every voxel of a slab to the tables."""
    for z, planes in enumerate(zip(*slab.values(), strict=True), first):
        image, roi, structure = (plane.ravel() for plane in planes)
        both = np.zeros(9 * 4 * 256, np.int64)
        # bincount copies to int64: pieces that stay in the cache are several times as fast.
        for at in (slice(i, i + _PIECE_VOX) for i in range(0, image.size, _PIECE_VOX)):
            rows = roi[at].astype(np.uint16) * 4 + structure[at]
            both += np.bincount(rows * 256 + image[at], minlength=both.size)
        cube = both.reshape(9, 4, 256)
        truth.histogram[:] += cube.sum(axis=1)
        truth.structures[:] += cube.sum(axis=2)
        truth.planes[z] = cube.sum(axis=(1, 2))
        if z in truth.annotated:
            truth.histogram_planes[:] += cube.sum(axis=1)


def _walk(phantom: Phantom, use: _Slab, threads: int | None, tell: Callable[[int], None]) -> Truth:
    """Make the volume in slabs, hand each to ``use`` in its thread, return what they hold."""
    nz, ny, nx = phantom.shape
    readers = {channel: replace(phantom, channel=channel) for channel in get_args(Channel)}
    step = max(1, min(8, _SLAB_VOX // (ny * nx)))

    def empty() -> Truth:
        grey, kinds = np.zeros((2, 9, 256), np.int64), np.zeros((9, 4), np.int64)
        return Truth(grey[0], grey[1], kinds, np.zeros((nz, 9), np.int64), annotated_planes(nz))

    def work(z: int) -> Truth:
        extent = Extent((z, 0, 0), (min(z + step, nz), ny, nx))
        slab = {channel: read(reader, extent) for channel, reader in readers.items()}
        use(z, slab)
        truth = empty()
        _count(truth, z, slab)
        return truth

    total = empty()
    with ThreadPoolExecutor(threads or min(8, os.cpu_count() or 1)) as pool:
        for n, truth in enumerate(pool.map(work, range(0, nz, step)), 1):
            for name in ("histogram", "histogram_planes", "structures", "planes"):
                getattr(total, name)[:] += getattr(truth, name)
            tell(min(n * step, nz))
    return total


def true_tables(
    phantom: Phantom,
    *,
    threads: int | None = None,
    tell: Callable[[int], None] = lambda planes: None,
) -> Truth:
    """Return what the volume holds, counted over all its voxels without the rest of the package.

    Parameters
    ----------
    phantom
        Any channel of the volume.
    threads
        How many slabs of at most 8 planes are made at once; as many as processors, at most 8.
    tell
        Called with the number of planes that are done.

    Examples
    --------
    >>> truth = true_tables(Phantom((4, 40, 80)))
    >>> int(truth.histogram.sum()), truth.planes.sum(axis=1).tolist(), truth.annotated
    (12800, [3200, 3200, 3200, 3200], (0, 1, 2))
    """
    return _walk(phantom, lambda z, slab: None, threads, tell)


@dataclass(frozen=True)
class Written:
    """What ``write_phantom`` wrote."""

    directory: Path
    """Holds image/, labels/roi/, labels/roi_planes/, labels/microstructure/ and truth/."""
    phantom: Phantom
    """The volume."""
    annotated: tuple[int, ...]
    """Planes in labels/roi_planes/."""
    n_files: int
    """Files written."""
    n_bytes: int
    """Their size together."""


def write_phantom(
    directory: str | os.PathLike[str],
    shape: Vox = DEFAULT_SHAPE,
    seed: int = 0,
    *,
    spacing_um: float = 1.17,
    threads: int | None = None,
    tell: Callable[[int], None] = lambda planes: None,
) -> Written:
    """Write a phantom as TIFF slices, with its label sets and the true tables.

    ``image/`` is uncompressed, ``labels/roi/``, ``labels/microstructure/`` (every plane) and
    ``labels/roi_planes/`` (the annotated planes, and ``planes.json``) are deflated; all uint8,
    one file a plane, z0000.tif and so on. ``truth/`` holds ``histogram.csv``,
    ``histogram_planes.csv`` (annotated planes only), ``fractions.csv`` and ``planes.csv``; it is
    written last. At most 8 planes a thread are in memory.

    Parameters
    ----------
    directory
        New, or empty.
    shape, seed, spacing_um
        As in ``Phantom``.
    threads, tell
        As in ``true_tables``.

    Raises
    ------
    RequestError
        The shape, seed or spacing is not allowed.
    ExistsError
        The directory holds something.
    WriteError
        The directory cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> written = write_phantom(tempfile.mkdtemp(), (4, 40, 80))
    >>> written.n_files, sorted(path.name for path in written.directory.glob("truth/*"))
    (20, ['fractions.csv', 'histogram.csv', 'histogram_planes.csv', 'planes.csv'])
    """
    phantom, root = Phantom(shape, seed, spacing_um), Path(directory)
    try:
        if root.exists() and not (root.is_dir() and not any(root.iterdir())):
            raise ExistsError(f"{root}: exists and is not empty; name a new directory or remove it")
        for folder in (
            "image",
            "labels/roi",
            "labels/roi_planes",
            "labels/microstructure",
            "truth",
        ):
            (root / folder).mkdir(parents=True)
        use = functools.partial(_write_slab, root, phantom)
        truth = _walk(phantom, use, threads, tell)
        planes = json.dumps({"planes": truth.annotated})
        (root / "labels/roi_planes/planes.json").write_text(planes + "\n", encoding="utf-8")
        _write_truth(root / "truth", truth)
        sizes = [path.stat().st_size for path in root.rglob("*") if path.is_file()]
    except OSError as error:
        if isinstance(error, ThcError):
            raise
        raise WriteError(
            f"{error.filename or root}: cannot write the phantom ({error.strerror or error}); "
            "free space or name another directory"
        ) from error
    return Written(root, phantom, truth.annotated, len(sizes), sum(sizes))


def _write_slab(
    root: Path, phantom: Phantom, first: int, slab: dict[str, NDArray[np.uint8]]
) -> None:
    from tifffile import imwrite

    annotated = annotated_planes(phantom.shape[0])
    digits = max(4, len(str(phantom.shape[0] - 1)))
    per_cm = 1e4 / phantom.spacing_um
    tags: dict[str, Any] = {
        "photometric": "minisblack", "metadata": None, "software": "thc_dask",
        "resolution": (per_cm, per_cm), "resolutionunit": "CENTIMETER",
    }  # fmt: skip
    deflate = {**tags, "compression": "zlib"}
    for z, (image, roi, structure) in enumerate(zip(*slab.values(), strict=True), first):
        name = f"z{z:0{digits}}.tif"
        imwrite(root / "image" / name, image, **tags)
        imwrite(root / "labels/roi" / name, roi, **deflate)
        imwrite(root / "labels/microstructure" / name, structure, **deflate)
        if z in annotated:
            imwrite(root / "labels/roi_planes" / name, roi, **deflate)


def _write_truth(folder: Path, truth: Truth) -> None:
    regions = SCHEMES[SCHEME_OF["roi"]].names
    structures = SCHEMES[SCHEME_OF["microstructure"]].names
    for name, table in (
        ("histogram", truth.histogram),
        ("histogram_planes", truth.histogram_planes),
    ):
        rows = ((regions[r], i, n) for (r, i), n in np.ndenumerate(table))
        _write_csv(folder / f"{name}.csv", ("region", "intensity", "count"), rows)
    voxels = truth.structures.sum(axis=1)
    shares = (
        (regions[r], structures[s], n, n / voxels[r] if voxels[r] else math.nan)
        for (r, s), n in np.ndenumerate(truth.structures)
    )
    _write_csv(folder / "fractions.csv", ("region", "structure", "count", "fraction"), shares)
    rows = ((z, regions[r], n) for (z, r), n in np.ndenumerate(truth.planes))
    _write_csv(folder / "planes.csv", ("plane", "region", "count"), rows)


def _write_csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[Any]]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
