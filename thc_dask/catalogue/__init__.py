"""What is published of Prasad et al. 2020: channels, cubes, planes, and where the sources disagree.

Nothing here is trusted where it can be looked up: which planes hold labels is found by reading
them, and what was found is held against every source that names planes.

Numbers are voxels (z, y, x), ranges half-open. Codes are in ``thc_dask.schemes``.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from thc_dask.catalogue.errata import ERRATA, Erratum, errata
from thc_dask.grid import Extent, Grid

__all__ = [
    "CHANNELS",
    "CUBES",
    "ERRATA",
    "GRID",
    "Channel",
    "Claim",
    "Cube",
    "Erratum",
    "cautions",
    "contradictions",
    "errata",
    "find_channel",
    "known_extents",
    "plane_of",
]

GRID = Grid((720, 1420, 5805), (1.17, 1.17, 1.17))
HOME = "bossdb://prasad/prasad2020"


@dataclass(frozen=True)
class Cube:
    """A box in which all structures were annotated, on some planes of it."""

    region: str
    """Name in the scheme ``prasad2020-roi``."""
    extent: Extent
    """Voxels of the volume."""

    @property
    def name(self) -> str:
        """Name of its files: ``masks_trn.npz``."""
        return self.region.lower()


@dataclass(frozen=True)
class Claim:
    """The annotated planes that one source names."""

    source: str
    planes: tuple[int, ...]


@dataclass(frozen=True)
class Channel:
    """A channel in bossDB."""

    name: str
    """Last part of its address."""
    kind: Literal["image", "labels"]
    dtype: str
    """Type of its voxels."""
    scheme: str = ""
    """What its codes mean; empty for images and where no source says it."""
    windows: tuple[Extent, ...] = (GRID.extent,)
    """Where annotations lie; all planes of it, or those of ``claims``."""
    claims: tuple[Claim, ...] = ()
    """Every source that names planes; the first is the one whose notebooks read them."""
    look_at: tuple[int, ...] = ()
    """Planes that may hold labels: those that are read to find out."""
    errata: tuple[int, ...] = ()
    """What to be told of before using it."""

    @property
    def address(self) -> str:
        """Where it is read from."""
        return f"{HOME}/{self.name}"


def _cube(region: str, z: tuple[int, int], y: tuple[int, int], x: tuple[int, int]) -> Cube:
    return Cube(region, Extent((z[0], y[0], x[0]), (z[1], y[1], x[1])))


CUBES = (
    _cube("CTX", (110, 471), (900, 1157), (4600, 4857)),
    _cube("STR", (110, 471), (500, 757), (3700, 3957)),
    _cube("TRN", (110, 471), (850, 1107), (3063, 3320)),
    _cube("ZI", (110, 471), (650, 907), (1543, 1800)),
)

_PAPER_ROI = (109, 159, 209, 259, 309, 359, 409, 459)
_NOTEBOOK_ROI = (109, 159, 209, 259, 309, 359, 409, 410, 460)

CHANNELS = (
    Channel("image", "image", "uint8", errata=(10, 9, 15, 24)),
    Channel(
        "region_of_interest",
        "labels",
        "uint64",
        "prasad2020-roi",
        claims=(
            Claim("the notebook roi_access and the README", _NOTEBOOK_ROI),
            Claim("the paper", _PAPER_ROI),
        ),
        # One to either side: 259 and 260, 459 and 460 are mistaken for one another.
        look_at=tuple(sorted({p + d for p in _PAPER_ROI + _NOTEBOOK_ROI for d in (-1, 0, 1)})),
        errata=(2, 12, 17),
    ),
    Channel(
        "pixel_annotation",
        "labels",
        "uint64",
        "prasad2020-microstructure",
        windows=tuple(cube.extent for cube in CUBES),
        claims=(
            Claim("the notebook annotation_access", tuple(range(140, 471, 30))),
            Claim("the paper and the README", tuple(range(140, 441, 30))),
        ),
        look_at=tuple(range(110, 471)),
        errata=(1, 3, 4, 5, 6, 11),
    ),
    Channel("roi_interpolated", "labels", "uint64", "prasad2020-roi", errata=(10, 12)),
)


def find_channel(location: str) -> Channel | None:
    """Return the channel at an address at full resolution; None where the catalogue has none.

    >>> find_channel("bossdb://prasad/prasad2020/pixel_annotation/").scheme
    'prasad2020-microstructure'
    """
    path, _, query = location.partition("?")
    options = dict(part.partition("=")[::2] for part in query.split("&"))
    if (options.get("level") or "0").strip("0"):
        return None
    return next((c for c in CHANNELS if c.address == path.rstrip("/")), None)


def known_extents(location: str) -> list[Extent] | None:
    """Return the boxes of voxels that are said to be annotated at an address.

    These are the planes that the authors' notebooks read. Reading tells which of them are:
    see ``annotated_extents`` of ``thc_dask.sources.bossdb``.

    Parameters
    ----------
    location
        ``bossdb://collection/experiment/channel``.

    Returns
    -------
    list of Extent
        Half-open boxes (z, y, x) in voxels, one plane each; None where nothing is known.

    Examples
    --------
    >>> extents = known_extents("bossdb://prasad/prasad2020/pixel_annotation")
    >>> len(extents), str(extents[0])
    (48, '140:141,900:1157,4600:4857')
    >>> known_extents("bossdb://lab/mouse/cells") is None
    True
    """
    channel = find_channel(location)
    if channel is None or not channel.claims:
        return None
    return [plane_of(window, z) for window in channel.windows for z in channel.claims[0].planes]


def plane_of(window: Extent, z: int) -> Extent:
    """Return plane ``z`` of a box.

    >>> str(plane_of(Extent((0, 2, 3), (9, 5, 6)), 4))
    '4:5,2:5,3:6'
    """
    return Extent((z, *window.start[1:]), (z + 1, *window.stop[1:]))


def cautions(location: str) -> list[str]:
    """Return what to know before using an address, one line each; empty where nothing is known.

    >>> cautions("bossdb://prasad/prasad2020/region_of_interest")[0].split(":")[0]
    'E2'
    """
    channel = find_channel(location)
    numbers = () if channel is None else channel.errata
    by_number = {e.number: e for e in ERRATA}
    return [str(by_number[n]) for n in numbers]


def contradictions(
    location: str,
    found: Iterable[Extent],
    scheme: str | None = None,
    looked_at: Iterable[int] | None = None,
) -> list[str]:
    """Return how what was found contradicts what the sources say, one line each.

    Parameters
    ----------
    location
        ``bossdb://collection/experiment/channel``.
    found
        Boxes that hold labels, one plane each, as ``annotated_extents`` finds them.
    scheme
        Name of the scheme that they are to be read with; None says nothing of codes.
    looked_at
        The planes that were searched; None for all. Others are not held against a source.

    Examples
    --------
    >>> roi = "bossdb://prasad/prasad2020/region_of_interest"
    >>> for line in contradictions(roi, known_extents(roi)):
    ...     print(line)
    region_of_interest: planes 410, 460 hold labels, contrary to the paper (E2)
    region_of_interest: plane 459 is empty, contrary to the paper (E2)
    """
    channel = find_channel(location)
    if channel is None:
        return []
    lines = []
    if scheme is not None and channel.scheme and scheme != channel.scheme:
        lines.append(f"{channel.name}: the codes are those of {channel.scheme}, not {scheme} (E1)")
    extents = list(found)
    planes = {e.start[0] for e in extents}
    cited = f"E{next((n for n in channel.errata if n in (2, 3)), 0)}"
    searched = set(range(GRID.shape[0]) if looked_at is None else looked_at)
    for claim in channel.claims:
        named = set(claim.planes) & searched
        more, less = planes - named, named - planes
        for odd, verb in (
            (more, ("holds labels", "hold labels")),
            (less, ("is empty", "are empty")),
        ):
            if odd:
                said = _planes(odd, *verb)
                lines.append(f"{channel.name}: {said}, contrary to {claim.source} ({cited})")
    return lines + _uneven(channel, extents, planes)


def _uneven(channel: Channel, found: list[Extent], planes: set[int]) -> list[str]:
    """Return which cubes lack planes that others have."""
    lines = []
    for cube in CUBES if channel.claims else ():
        if cube.extent in channel.windows:
            have = {e.start[0] for e in found if cube.extent.contains(e)}
            if planes - have:
                said = _planes(planes - have, "is empty", "are empty")
                lines.append(
                    f"{channel.name}: {said} in the cube {cube.region}, not in the others (E5)"
                )
    return lines


def _planes(planes: Iterable[int], one: str, many: str) -> str:
    """Return ``plane 3 is empty``, ``planes 1, 3-5 are empty``."""
    runs = []
    for _, group in itertools.groupby(enumerate(sorted(planes)), lambda pair: pair[1] - pair[0]):
        run = [z for _, z in group]
        runs.append(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}")
    alone = len(runs) == 1 and "-" not in runs[0]
    return f"plane {runs[0]} {one}" if alone else f"planes {', '.join(runs)} {many}"
