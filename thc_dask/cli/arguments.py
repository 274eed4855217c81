"""What can be asked for: sub-commands, their options, and how values are written."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any, NoReturn

from thc_dask import __version__
from thc_dask.errors import RequestError

SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip

# As errors of a source have it; to import it from there would load numpy.
SOURCES = (
    "a TIFF, PNG or JPEG 2000 file or a folder of them, .npy, HDF5 (file.h5:/dataset), zarr, "
    "NIfTI, MetaImage, NRRD, a mosaic (.json), bossdb://, precomputed://, phantom:z,y,x"
)


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None


def _asked(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let argparse report what a parser of ours finds wrong."""

    def typed(text: str) -> Any:
        try:
            return parse(text)
        except RequestError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return typed


def _planes(text: str) -> list[int]:
    try:
        return [int(part) for part in text.split(",")]
    except ValueError:
        raise RequestError(f"planes {text!r}: give whole numbers: 109,159,209") from None


def _memory(text: str) -> int:
    number = text.rstrip("".join(c for c in text if c.isalpha()))
    unit = text[len(number) :].upper()
    try:
        size = int(float(number) * SIZES[unit])
    except (ValueError, KeyError, OverflowError):
        raise RequestError(f"memory {text!r}: write it like 2GiB or 500MB") from None
    if size < 2**20:
        raise RequestError(f"memory {text!r}: give at least 1MiB")
    return size


def _box(text: str) -> Any:
    from thc_dask.grid import parse_box  # loads numpy, which --help can do without

    return parse_box(text)


def _triple(what: str, low: int = 1) -> Callable[[str], Any]:
    def parse(text: str) -> Any:
        from thc_dask.grid import parse_triple

        return parse_triple(text, what, low)

    return _asked(parse)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line, as all of ours do."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # A box may begin below zero: --box -5:20,0:9,0:9 names no option.
        self._negative_number_matcher = re.compile(r"-[0-9.]")

    def error(self, message: str) -> NoReturn:
        message = message.removeprefix("argument ")
        self.exit(2, f"{self.prog}: {message}; {self.prog} --help shows how\n")


class _Commands:
    """Adds sub-commands that all have a description, an example and ``--json``."""

    def __init__(self, parser: argparse.ArgumentParser) -> None:
        self._group = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(self, verb: str, does: str, example: str) -> argparse.ArgumentParser:
        parser = self._group.add_parser(
            verb,
            help=does,
            description=does[0].upper() + does[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.add_argument("--json", action="store_true", help="print for machines")
        return parser

    def parser(self, verb: str) -> argparse.ArgumentParser:
        """Return the parser of a sub-command that was added."""
        return self._group.choices[verb]


def build_parser() -> argparse.ArgumentParser:
    """Return the parser of ``thc``; what it parses names the verb as ``command``."""
    parser = _Parser(
        prog="thc",
        description="Brain-scale image volumes: convert, label, count, compare.",
        epilog="Begin with: thc demo. Each command has --help with an example.",
    )
    parser.add_argument("--version", action="version", version=f"thc_dask {__version__}")
    commands = _Commands(parser)
    _add_makers(commands)
    _add_questions(commands)
    _add_cluster(commands)
    return parser


def _add_makers(commands: _Commands) -> None:
    p = commands.add("demo", "phantom to report in one go", "thc demo\nthc demo out --data DATA")
    p.add_argument("directory", nargs="?", default="demo", metavar="DIR", help="where it goes")
    p.add_argument("--shape", type=_triple("shape"), help="voxels of the phantom, z,y,x")
    p.add_argument("--seed", type=_whole, default=0, help="of the phantom")
    p.add_argument("--data", metavar="DIR", help="also show the real slice z309 found there")

    p = commands.add(
        "phantom", "write a synthetic volume with its labels and the true answers",
        "thc phantom ph --shape 128,256,768 --seed 1",
    )  # fmt: skip
    p.add_argument("directory", metavar="DIR", help="new folder")
    p.add_argument("--shape", type=_triple("shape"), help="voxels, z,y,x")
    p.add_argument("--seed", type=_whole, default=0, help="another seed, another volume")

    p = commands.add(
        "convert", "write a source to a sharded multiscale OME-Zarr store",
        "thc convert slices/ volume.ome.zarr --spacing 1.17um\n"
        "thc convert phantom:128,256,768 volume.ome.zarr --levels 5 --dry-run",
    )  # fmt: skip
    p.add_argument("source", metavar="SOURCE", help=SOURCES)
    p.add_argument("store", metavar="STORE", help="path or URL of the store")
    p.add_argument("--spacing", help="distance of voxels: 1.17um, or z,y,x: 2um,1.17um,1.17um")
    p.add_argument("--levels", type=_whole, help="of the pyramid (default: down to 256 voxels)")
    p.add_argument("--chunk", type=_triple("chunk"), help="voxels compressed together (64)")
    p.add_argument("--shard", type=_triple("shard"), help="voxels of a file (4 chunks a side)")
    p.add_argument("--codec", default="zstd", help="zstd (tuned to CT noise) or zstd:LEVEL")
    p.add_argument("--window", help="to 8 bit: LOW:HIGH, p0.1:p99.9, or auto")
    p.add_argument("--order", help="the source's axes as they stand: xyz")
    p.add_argument("--flip", default="", help="axes of the result that run backwards: zx")
    p.add_argument("--crop", type=_asked(_box), help="z0:z1,y0:y1,x0:x1 in micrometers")
    p.add_argument("--count", action="store_true", help="count intensities on the way")
    p.add_argument("--memory", type=_asked(_memory), help="of the buffers (1GiB)")
    p.add_argument("--overwrite", action="store_true", help="replace a store that exists")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted conversion")
    p.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")

    p = commands.add(
        "labels", "bring a label set into a store",
        "thc labels roi/ volume.ome.zarr --name roi --scheme prasad2020-roi --planes 109,159\n"
        "thc labels roi.tif s.ome.zarr --name roi --scheme prasad2020-roi "
        "--extent 0:1,343:1200,904:5657",
    )  # fmt: skip
    p.add_argument(
        "source", metavar="SOURCE", help="labels as whole numbers, of any kind that convert takes"
    )
    p.add_argument("store", metavar="STORE")
    p.add_argument("--name", help="of the label set (roi, or microstructure)")
    p.add_argument(
        "--scheme",
        help="what the codes mean: a known scheme or a file; OME-Zarr labels say it themselves",
    )
    p.add_argument("--planes", type=_asked(_planes), help="annotated z planes: 109,159,209")
    p.add_argument(
        "--extent", action="append", metavar="Z0:Z1,Y0:Y1,X0:X1",
        help="voxels inside which labels are known; may be given again",
    )  # fmt: skip
    p.add_argument("--offset", type=_triple("offset", 0), help="where a smaller source lies, z,y,x")
    p.add_argument("--order", help="the labels' axes as they stand: xyz, as convert was told")
    p.add_argument("--flip", help="axes that run backwards: zx, as convert was told")
    p.add_argument(
        "--into", nargs="?", const=True, metavar="NAME", help="add to the label set that exists"
    )
    p.add_argument("--overwrite", action="store_true", help="replace a label set that exists")

    p = commands.add(
        "interpolate", "fill a label set between its annotated planes, by shape",
        "thc interpolate volume.ome.zarr roi --into roi_interpolated",
    )  # fmt: skip
    p.add_argument("store", metavar="STORE")
    p.add_argument("labels", metavar="N", nargs="?", default="roi", help="label set to fill (roi)")
    p.add_argument("--into", metavar="M", help="name of the filled one (N_interpolated)")
    p.add_argument("--overwrite", action="store_true", help="replace a label set that exists")
    p.add_argument(
        "-o", "--out", metavar="FILE", help="scores of planes left out, one by one: .csv .parquet …"
    )

    p = commands.add(
        "count",
        "count once: tables by plane and by chunk",
        "thc count volume.ome.zarr --labels roi",
    )
    p.add_argument("store", metavar="STORE")
    p.add_argument(
        "--labels", metavar="N[,N]", action="append", help="label sets (all); image counts it alone"
    )


def _add_questions(commands: _Commands) -> None:
    p = commands.add(
        "histogram", "how often each intensity occurs in each region",
        "thc histogram volume.ome.zarr --by roi -o h.csv\n"
        "thc histogram volume.ome.zarr --by roi --box 0:150,300:450,300:450",
    )  # fmt: skip
    _add_question(p)
    _add_aligned(p)

    p = commands.add(
        "fractions", "which share of each region each structure takes, with intervals",
        "thc fractions volume.ome.zarr --of microstructure --by roi -o f.csv",
    )  # fmt: skip
    _add_question(p)
    p.add_argument("--of", default="microstructure", metavar="N", help="label set of structures")
    _add_aligned(p)
    _add_drawing(p, "known, foreground or unclipped")

    p = commands.add(
        "summary", "mean, spread, percentiles and entropy of each region, with intervals",
        "thc summary volume.ome.zarr --by roi -o s.csv\n"
        "thc summary volume.ome.zarr --by roi --denominator unclipped",
    )  # fmt: skip
    _add_question(p)
    _add_drawing(p, "known or unclipped")

    p = commands.add(
        "compare", "how far apart regions are, with intervals and tests over planes",
        "thc compare volume.ome.zarr --by roi -o d.csv\n"
        "thc compare volume.ome.zarr --by roi --of microstructure --denominator foreground",
    )  # fmt: skip
    _add_question(p)
    p.add_argument("--of", metavar="N", help="compare what regions are made of, not intensities")
    p.add_argument("--measures", type=_names, metavar="NAME,…", help="some: js,wasserstein (all)")
    p.add_argument("--smoothing", type=float, default=1e-6, help="added to counts for kl (1e-6)")
    _add_drawing(p, "known or unclipped; foreground of structures")
    p.add_argument(
        "--permutations", type=_whole, default=9999, help="of each test; 0 makes none (9999)"
    )

    p = commands.add(
        "profile", "what regions come to in bins along an axis",
        "thc profile volume.ome.zarr --along y --step 50 -o p.csv\n"
        "thc profile volume.ome.zarr --along y --of microstructure --box :,0:900,:",
    )  # fmt: skip
    _add_question(p)
    p.add_argument("--along", default="y", choices=("z", "y", "x"), help="axis (y)")
    p.add_argument("--step", type=float, default=50.0, metavar="UM", help="of a bin (50)")
    p.add_argument("--of", metavar="N", help="fractions of structures, not intensities")
    _add_drawing(p, "known or unclipped; foreground of structures", n_resamples=500, cubes=False)

    p = commands.add(
        "maps", "coarse images of fractions or means, kept in the store",
        "thc maps volume.ome.zarr --of microstructure\n"
        "thc maps volume.ome.zarr --of image --by roi --region CTX --cell 150 -o m.nc",
    )  # fmt: skip
    p.add_argument("store", metavar="STORE")
    p.add_argument("--of", default="microstructure", metavar="N", help="structures, or image")
    p.add_argument("--by", metavar="N", help="label set of regions")
    p.add_argument("--region", metavar="NAME", help="only voxels of this region")
    p.add_argument("--cell", type=float, metavar="UM", help="side of a cell (a chunk)")
    p.add_argument(
        "--denominator", default="known", metavar="WHICH",
        help="voxels: known or unclipped; foreground of structures (known)",
    )  # fmt: skip
    p.add_argument("-o", "--out", metavar="FILE", help="a table instead: .nc .zarr .csv …")

    _add_patches(commands)
    _add_agreement(commands)
    for verb, does, target, example in (
        ("figures", "draw the paper's panels", "figures", "thc figures volume.ome.zarr -o figures"),
        ("report", "write one HTML report", "report.html", "thc report volume.ome.zarr -o r.html"),
    ):
        p = commands.add(verb, does, example)
        p.add_argument("store", metavar="STORE")
        p.add_argument("-o", "--out", default=target, help=f"where to ({target})")
        p.add_argument("--by", metavar="N", help="label set of regions (the first)")
        p.add_argument("--of", metavar="N", help="label set of structures (the first)")
        p.add_argument("--box", type=_asked(_box), help="z0:z1,y0:y1,x0:x1 in micrometers")
        if verb == "figures":
            p.add_argument(
                "--format", default="png", choices=("png", "svg", "pdf"), help="of the files (png)"
            )

    p = commands.add(
        "reproduce", "what the data allow of Figures 2 and 3 of Prasad et al. 2020",
        "thc reproduce prasad2020/ -o paper\n"
        "thc reproduce prasad2020/ -o paper --image bossdb://prasad/prasad2020/image",
    )  # fmt: skip
    p.add_argument("data", metavar="DIR", help="with masks.npz, imgs.npz, irr.csv, or some of them")
    p.add_argument("-o", "--out", default="paper", metavar="OUT", help="where to (paper)")
    p.add_argument("--image", metavar="SOURCE", help="whole volume: views are planes of its cubes")
    p.add_argument("--labels", metavar="SOURCE", help="structures of the whole volume, likewise")
    _add_bootstrap(p)

    p = commands.add("info", "what is in a store", "thc info volume.ome.zarr")
    p.add_argument("store", metavar="STORE")

    p = commands.add(
        "verify", "prove that a store is whole, byte by byte",
        "thc verify volume.ome.zarr\nthc verify volume.ome.zarr --repair",
    )  # fmt: skip
    p.add_argument("store", metavar="STORE")
    p.add_argument("--repair", action="store_true", help="make what is broken anew")
    p.add_argument("--source", help="the image's source, if it has moved since")
    p.add_argument(
        "--spot-checks", type=_whole, default=8,
        help="places of each level that are made again from the finer one (8)",
    )  # fmt: skip
    p.add_argument("--seed", type=_whole, default=0, help="of the places")


ON_CLUSTERS = (
    "convert", "labels", "interpolate", "count", "histogram", "fractions", "summary", "compare",
    "profile", "maps", "figures", "report", "verify",
)  # fmt: skip
"""Commands whose voxels may be read elsewhere."""


def _add_cluster(commands: _Commands) -> None:
    for verb in ON_CLUSTERS:
        commands.parser(verb).add_argument(
            "--cluster", dest="on_cluster", metavar="SPEC",
            help="where to work: threads (the default), local:4, tcp://HOST:PORT, slurm:16, a "
            "profile … (thc cluster show)",
        )  # fmt: skip
    p = commands.add(
        "cluster", "say what a cluster would be, start it and measure, or make a file of profiles",
        "thc cluster show\nthc cluster show slurm:16 --dry-run\n"
        "thc cluster check local:2 --store volume.ome.zarr\nthc cluster init",
    )  # fmt: skip
    p.add_argument(
        "action", choices=("show", "check", "init"),
        help="show: print what SPEC means; check: start it, see and measure; init: make the file",
    )  # fmt: skip
    p.add_argument("spec", nargs="?", metavar="SPEC", help="as --cluster of other commands has it")
    p.add_argument("--dry-run", action="store_true", help="show: the script or resource alone")
    p.add_argument("--store", metavar="STORE", help="check: that workers see it, and how fast")
    p.add_argument(
        "--shape", type=_triple("shape"), help="check: say what to expect for z,y,x voxels"
    )


def _add_bootstrap(parser: argparse.ArgumentParser, n: int = 2000, none: str = "") -> None:
    parser.add_argument("--confidence", type=float, default=0.95, help="of the intervals (0.95)")
    parser.add_argument("--resamples", type=_whole, default=n, help=f"of the bootstrap{none} ({n})")
    parser.add_argument("--seed", type=_whole, default=0, help="of what is drawn at random (0)")


def _names(text: str) -> list[str]:
    return [part.strip() for part in text.split(",")]


def _add_patches(commands: _Commands) -> None:
    p = commands.add(
        "patches", "balanced views inside regions, to train and to test on",
        "thc patches volume.ome.zarr --by roi --size 150um -n 38 --test 0.8 -o patches.zarr\n"
        "thc patches volume.ome.zarr --merge VP=TRN,VP --merge WM=IC,CC --sheet s.png --key k.csv\n"
        "thc patches volume.ome.zarr --merge prasad2020 -o patches.zarr --classify scores.csv",
    )  # fmt: skip
    p.add_argument("store", metavar="STORE")
    p.add_argument("--by", default="roi", metavar="N", help="label set of regions (roi)")
    p.add_argument("--size", type=_asked(_um), default=150.0, help="side of a patch (150um)")
    p.add_argument(
        "-n", "--per-region", type=_whole, metavar="N",
        help="patches of each region, train and test together (as many as every region has)",
    )  # fmt: skip
    p.add_argument("--regions", type=_names, metavar="NAME,…", help="only these (all that occur)")
    p.add_argument(
        "--merge", action="append", metavar="NEW=OLD,…",
        help="regions that count as one, or prasad2020; may be given again",
    )  # fmt: skip
    p.add_argument("--test", type=float, default=0.3, help="share to test on; 0: no split (0.3)")
    p.add_argument(
        "--margin", type=_asked(_um), default=20.0, help="least distance of planes along z (20um)"
    )
    p.add_argument("--level", type=_whole, default=0, help="of the pyramid (0)")
    p.add_argument("--seed", type=_whole, default=0, help="of all that is drawn (0)")
    p.add_argument("-o", "--out", metavar="FILE", help="patches, as .zarr; the key goes beside")
    p.add_argument("--key", metavar="FILE", help="answer key: .csv .parquet … (OUT_key.csv)")
    p.add_argument(
        "--sheet", metavar="FILE",
        help="what is to be answered, numbered, as pictures: .png .svg .pdf",
    )  # fmt: skip
    p.add_argument("--examples", metavar="FILE", help="train patches with their regions, likewise")
    p.add_argument("--classify", metavar="FILE", help="scores of two plain classifiers: .csv …")
    p.add_argument("--answers", metavar="FILE", help="their answers, for thc agreement: .csv")


def _um(text: str) -> float:
    from thc_dask.grid import parse_spacing

    try:
        return float(text)  # micrometers, as --cell and --step have it
    except ValueError:
        pass
    try:
        lengths = parse_spacing(text)
    except RequestError:
        lengths = (0.0, 1.0, 0.0)
    if len(set(lengths)) > 1:
        raise RequestError(f"{text!r} is no length; write it like 150um")
    return lengths[0]


def _add_agreement(commands: _Commands) -> None:
    p = commands.add(
        "agreement", "how well annotators answer, and how far they agree",
        "thc agreement answers.csv\n"
        "thc agreement answers.csv --key truth --annotators ann,bob -o agreement.csv",
    )  # fmt: skip
    p.add_argument("answers", metavar="FILE", help="CSV, one row an item")
    p.add_argument("--key", default="key", metavar="COLUMN", help="the right classes (key)")
    p.add_argument("--annotators", type=_names, metavar="COLUMN,…", help="(all other columns)")
    p.add_argument("--dataset", metavar="COLUMN", help="divides items (dataset, if there is one)")
    p.add_argument("--item", metavar="COLUMN", help="names items (item, if there is one)")
    p.add_argument("--classes", type=_names, metavar="NAME,…", help="all classes (the key's)")
    p.add_argument(
        "--missing", default="omit", choices=("omit", "wrong"), help="an empty answer is (omit)"
    )
    _add_bootstrap(p)
    p.add_argument(
        "--table", default="all", help="all scores, or one of: classes annotators pairs alpha "
        "confusion mcnemar regions"
    )  # fmt: skip
    p.add_argument("-o", "--out", metavar="FILE", help=".csv .parquet .json .nc or .zarr")


def _add_drawing(
    parser: argparse.ArgumentParser, denominators: str, n_resamples: int = 2000, cubes: bool = True
) -> None:
    parser.add_argument(
        "--denominator", default="known", metavar="WHICH", help=f"voxels: {denominators} (known)"
    )
    if cubes:
        parser.add_argument(
            "--cubes", action="append", metavar="Z0:Z1,Y0:Y1,X0:X1",
            help="draw cubes, then planes in them: auto, or voxels; may be given again",
        )  # fmt: skip
    parser.add_argument(
        "--block", type=_whole, metavar="N",
        help="planes drawn together (1; of what is interpolated, from one annotated plane to the "
        "next)",
    )  # fmt: skip
    _add_bootstrap(parser, n_resamples, none="; 0 makes no intervals")


def _add_aligned(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--aligned",
        action="store_true",
        help="move the box to faces of chunks: tables answer it, if planes need not be kept apart",
    )


def _add_question(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--by", default="roi", metavar="N", help="label set (roi)")
    parser.add_argument(
        "--box", type=_asked(_box), help="z0:z1,y0:y1,x0:x1 in micrometers, half-open"
    )
    parser.add_argument("-o", "--out", metavar="FILE", help=".csv .parquet .json .nc or .zarr")
