"""Errata of Prasad et al. 2020: where its published sources disagree, numbered to be cited."""

from __future__ import annotations

from dataclasses import dataclass

from thc_dask.errors import MissingError


@dataclass(frozen=True)
class Erratum:
    """A place where the published sources disagree with one another or with the data."""

    number: int
    """As cited: E1, E2."""
    text: str
    """What disagrees."""
    source: str
    """Where it stands."""
    touches: tuple[str, ...]
    """Figures (``2C``) and channels (``pixel_annotation``) that depend on it."""

    def __str__(self) -> str:
        return f"E{self.number}: {self.text} ({self.source})"


def _erratum(number: int, touches: str, source: str, text: str) -> Erratum:
    return Erratum(number, text, source, tuple(touches.split()))


ERRATA = (
    _erratum(
        1, "2A 2C 2E pixel_annotation", "paper, README, analysis files",
        "codes of the structures: paper and bossDB 1 vessel, 2 cell, 3 axon; README 1 cell, "
        "2 vessel, 3 axon; masks_*.npz 1 axon, 2 vessel, 3 cell; in the data of bossDB the paper "
        "is right",
    ),
    _erratum(
        2, "1C 3A region_of_interest", "paper, Methods and Data Records; README; roi_access",
        "annotated region planes: the paper says nine and lists eight (109 to 459 in steps of 50), "
        "README and notebook list nine: 460 instead of 459, and 410 beside 409",
    ),
    _erratum(
        3, "2C 2E pixel_annotation", "paper, README; annotation_access",
        "annotated planes of a cube: 11 in paper and README (30 to 330 in steps of 30), 12 in the "
        "notebook (360 too); Figure 2 counts 32 images a region",
    ),
    _erratum(
        4, "2C 2E pixel_annotation", "paper; README; MTNeuro",
        "size of a cube: 257 x 257 x 361 in the paper, 256 x 256 x 360 in the README, 256 wide in "
        "MTNeuro",
    ),
    _erratum(
        5, "2C 2E pixel_annotation", "paper, Methods and Data Records",
        "the striatum cube ends at z = 470 in the Methods and 471 in the Data Records; ranges are "
        "half-open in bossDB and nowhere stated to be",
    ),
    _erratum(
        6, "2B 2C 2D 2E 3B pixel_annotation", "paper, Methods and Data Records; README",
        "the cube at x 3063 to 3320 is TRN in Methods and Figure 2, VP in the Data Records, and "
        "mostly VP with some TRN in the README; the raters' study merges both into VP",
    ),
    _erratum(
        7, "1C image", "paper; README of data_access",
        "the specimen spans z 15 to 670 in the paper and 15 to 680 in the README",
    ),
    _erratum(
        8, "1C image", "notebook low_res_volume",
        "its sizes, int(n / (2 * level)), are right at levels 1 and 2 only, and one column short "
        "there; a level has ceil(n / 2**level) voxels",
    ),
    _erratum(
        9, "image", "README; bossDB server",
        "outside the volume bossDB is said to give zeros; at level 0 it refuses",
    ),
    _erratum(
        10, "image roi_interpolated", "paper, Data Records; notebooks",
        "the image channel is images in the paper and image in bossDB; roi_interpolated and the "
        "experiment prasad_analysis are not in the paper",
    ),
    _erratum(
        11, "2A pixel_annotation", "notebook mask_roi_example",
        "its z range is reversed and its stored output blank where structures should be: annotated "
        "planes may be shifted; see which are not empty",
    ),
    _erratum(
        12, "2C region_of_interest pixel_annotation roi_interpolated", "paper; notebooks",
        "planes with regions and planes with structures share only z = 410: regions by structures "
        "cannot be counted from both channels; roi_interpolated covers all planes",
    ),
    _erratum(
        13, "1B image", "paper, Methods",
        "14 stacks of 50 images are 700 planes, the volume has 720; order of axes is z, y, x in "
        "one place and x, y, z in another",
    ),
    _erratum(
        14, "1A 1B image", "paper, Methods",
        "the slice was cut 450 um thick, the specimen spans 656 planes of 1.17 um, 767 um",
    ),
    _erratum(
        15, "1B 1C image", "paper, Methods",
        "5.86 um over 5x is 1.172 um, rounded to 1.17: 0.17 per cent, 12 um along x",
    ),
    _erratum(
        16, "1C 2B 3B region_of_interest", "paper, Abstract, Methods and Figures",
        "regions: six in the Abstract, seven in the Methods, eight codes, four in Figure 2 and six "
        "in Figure 3",
    ),
    _erratum(
        17, "3A region_of_interest", "paper, Methods",
        "the hypothalamus is annotated in the first planes only: its absence in later ones is not "
        "to be read as zero",
    ),
    _erratum(
        18, "2E", "paper, Figure 2; analysis notebook",
        "called a Kullback-Leibler divergence, computed as 1 - cosine similarity of fractions",
    ),
    _erratum(
        19, "2D", "paper, Technical Validation",
        "CTX and STR are called highly similar in intensity, ZI and TRN are closer; the divergence "
        "is not symmetric and its direction is not stated",
    ),
    _erratum(
        20, "3B", "paper, Technical Validation; answers of the raters",
        "more than 80 per cent for CTX, STR and WM by both annotators: annotator 1 has F1 0.78 for "
        "WM in set 1; 180 images a set and 360 in all are mixed",
    ),
    _erratum(
        21, "3B 3C", "paper, Code Availability; analysis notebook",
        "no code makes Figure 3C or its p values; F1 values of 3B were typed in, rounded",
    ),
    _erratum(
        22, "2C", "analysis notebook",
        "rows are divided by the sums of other rows (harmless: all are 524288), and the last bin "
        "is closed; images are loaded from paths that are not published",
    ),
    _erratum(
        23, "2C pixel_annotation region_of_interest", "README; analysis files; notebooks",
        "labels are uint64 in bossDB, int32 in masks_*.npz and were float64 in large cutouts of "
        "old versions of intern",
    ),
    _erratum(
        24, "2B 2D image", "paper, Methods",
        "the window of the conversion from 32 to 8 bit is not given; the peak at intensity 0 is "
        "what it clipped",
    ),
    _erratum(
        25, "region_of_interest", "paper, Methods; README",
        "planes approximately 50 apart, 58.5 um: true but for 409 and 410, 1.17 um apart",
    ),
    _erratum(
        26, "2B 2C 2D 2E 3B", "README of the repository",
        "links and pinned versions do not work any more: nerdslab/xray-thc-data, a Dockerfile that "
        "is not there, intern 0.9.12 and numpy 1.18.1",
    ),
)  # fmt: skip


def errata(touching: str | None = None) -> tuple[Erratum, ...]:
    """Return the errata, or those that touch a figure or a channel.

    Parameters
    ----------
    touching
        ``"2C"`` or ``"Figure 2C"``, ``"pixel_annotation"``; None for all.

    Raises
    ------
    MissingError
        No erratum touches anything of that name.

    Examples
    --------
    >>> [f"E{e.number}" for e in errata("Figure 2E")]
    ['E1', 'E3', 'E4', 'E5', 'E6', 'E18', 'E26']
    """
    if touching is None:
        return ERRATA
    wanted = touching.casefold().removeprefix("figure").strip()
    found = tuple(e for e in ERRATA if wanted in (name.casefold() for name in e.touches))
    if not found:
        known = sorted({name for e in ERRATA for name in e.touches})
        raise MissingError(f"errata: none touches {touching!r}; known: {', '.join(known)}")
    return found
