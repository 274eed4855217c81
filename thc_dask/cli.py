"""The command line: one sub-command a verb, each a thin door to the function of that name."""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from typing import Any, NoReturn

from thc_dask import __version__
from thc_dask.errors import DataError, RequestError, ThcError
from thc_dask.grid import Box, Extent, Vox, parse_box, parse_extent, parse_triple

Arguments = argparse.Namespace
SIZES = {"": 1, "B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12,
         "KIB": 2**10, "MIB": 2**20, "GIB": 2**30, "TIB": 2**40}  # fmt: skip


def main(argv: Sequence[str] | None = None) -> NoReturn:
    """Run a command and exit: 0 done, 1 failed, 2 wrong request, 130 interrupted."""
    sys.exit(run(argv))


def run(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code; ``--help`` and wrong options exit at once."""
    command = "thc"
    try:
        args, unknown = _parser().parse_known_args(argv)
        command = f"thc {args.command}"
        if unknown:
            raise RequestError(f"unknown: {' '.join(unknown)}; {command} --help shows how")
        with warnings.catch_warnings():
            warnings.showwarning = partial(_warn, command)
            args.run(args)
        print(end="", flush=True)  # errors of writing belong here, not to the exit of Python
    except ThcError as error:
        print(f"{command}: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print(f"{command}: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        _give_up_output()  # the reader of a pipe has gone; that is its right
        return 0
    except OSError as error:
        what = f"{error.filename}: " if error.filename else ""
        text = " ".join(str(error.strerror or error).split())
        print(f"{command}: {what}{text}", file=sys.stderr)
        _give_up_output()
        return 1
    return 0


def _give_up_output() -> None:
    """Send what is still to be printed nowhere: at exit Python would try again, and complain."""
    try:
        print(end="", flush=True)
    except OSError:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), sys.stdout.fileno())


def _warn(command: str, message: Warning | str, *_: Any) -> None:
    """Print a warning as errors are: one line."""
    print(f"{command}: warning: {message}", file=sys.stderr)


# ---- arguments ----------------------------------------------------------------------------


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


def _triple(what: str, low: int = 1) -> Callable[[str], Vox]:
    return _asked(lambda text: parse_triple(text, what, low))


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

    def add(
        self, run: Callable[[Arguments], None], does: str, example: str, name: str = ""
    ) -> argparse.ArgumentParser:
        parser = self._group.add_parser(
            name or run.__name__.strip("_"),
            help=does,
            description=does[0].upper() + does[1:] + ".",
            epilog="examples:\n" + "\n".join(f"  {line}" for line in example.splitlines()),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        parser.set_defaults(run=run)
        parser.add_argument("--json", action="store_true", help="print for machines")
        return parser


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="thc",
        description="Brain-scale image volumes: convert, label, count, compare.",
        epilog="Begin with: thc demo. Each command has --help with an example.",
    )
    parser.add_argument("--version", action="version", version=f"thc_dask {__version__}")
    commands = _Commands(parser)
    _add_makers(commands)
    _add_questions(commands)
    return parser


def _add_makers(commands: _Commands) -> None:
    p = commands.add(_demo, "phantom to report in one go", "thc demo\nthc demo out --data DATA")
    p.add_argument("directory", nargs="?", default="demo", metavar="DIR", help="where it goes")
    p.add_argument("--shape", type=_triple("shape"), help="voxels of the phantom, z,y,x")
    p.add_argument("--seed", type=_whole, default=0, help="of the phantom")
    p.add_argument("--data", metavar="DIR", help="also show the real slice z309 found there")

    p = commands.add(
        _phantom, "write a synthetic volume with its labels and the true answers",
        "thc phantom ph --shape 128,256,768 --seed 1",
    )  # fmt: skip
    p.add_argument("directory", metavar="DIR", help="new folder")
    p.add_argument("--shape", type=_triple("shape"), help="voxels, z,y,x")
    p.add_argument("--seed", type=_whole, default=0, help="another seed, another volume")

    p = commands.add(
        _convert, "write a source to a sharded multiscale OME-Zarr store",
        "thc convert slices/ volume.ome.zarr --spacing 1.17um\n"
        "thc convert phantom:128,256,768 volume.ome.zarr --levels 5 --dry-run",
    )  # fmt: skip
    p.add_argument("source", metavar="SOURCE", help="TIFF/PNG file or folder, or phantom:z,y,x")
    p.add_argument("store", metavar="STORE", help="path or URL of the store")
    p.add_argument("--spacing", help="distance of voxels: 1.17um, or z,y,x: 2um,1.17um,1.17um")
    p.add_argument("--levels", type=_whole, help="of the pyramid (default: down to 256 voxels)")
    p.add_argument("--chunk", type=_triple("chunk"), help="voxels compressed together (64)")
    p.add_argument("--shard", type=_triple("shard"), help="voxels of a file (4 chunks a side)")
    p.add_argument("--codec", default="zstd", help="zstd (tuned to CT noise) or zstd:LEVEL")
    p.add_argument("--window", help="to 8 bit: LOW:HIGH, p0.1:p99.9, or auto")
    p.add_argument("--order", help="the source's axes as they stand: xyz")
    p.add_argument("--flip", default="", help="axes of the result that run backwards: zx")
    p.add_argument("--crop", type=_asked(parse_box), help="z0:z1,y0:y1,x0:x1 in micrometers")
    p.add_argument("--memory", type=_asked(_memory), help="of the buffers (1GiB)")
    p.add_argument("--overwrite", action="store_true", help="replace a store that exists")
    p.add_argument("--resume", action="store_true", help="go on with an interrupted conversion")
    p.add_argument("--dry-run", action="store_true", help="print the plan and do nothing")

    p = commands.add(
        _labels, "bring a label set into a store",
        "thc labels roi/ volume.ome.zarr --name roi --scheme prasad2020-roi --planes 109,159\n"
        "thc labels roi.tif s.ome.zarr --name roi --scheme prasad2020-roi "
        "--extent 0:1,343:1200,904:5657",
    )  # fmt: skip
    p.add_argument("source", metavar="SOURCE", help="labels as whole numbers")
    p.add_argument("store", metavar="STORE")
    p.add_argument("--name", help="of the label set (roi, or microstructure)")
    p.add_argument("--scheme", help="what the codes mean: a known scheme or a file")
    p.add_argument("--planes", type=_asked(_planes), help="annotated z planes: 109,159,209")
    p.add_argument(
        "--extent", action="append", metavar="Z0:Z1,Y0:Y1,X0:X1",
        help="voxels inside which labels are known; may be given again",
    )  # fmt: skip
    p.add_argument("--offset", type=_triple("offset", 0), help="where a smaller source lies, z,y,x")
    p.add_argument(
        "--into", nargs="?", const=True, metavar="NAME", help="add to the label set that exists"
    )
    p.add_argument("--overwrite", action="store_true", help="replace a label set that exists")

    p = commands.add(
        _count, "count once: tables by plane and by chunk", "thc count volume.ome.zarr --labels roi"
    )
    p.add_argument("store", metavar="STORE")
    p.add_argument("--labels", metavar="N[,N]", action="append", help="label sets (all)")


def _add_questions(commands: _Commands) -> None:
    p = commands.add(
        _histogram, "how often each intensity occurs in each region",
        "thc histogram volume.ome.zarr --by roi -o h.csv\n"
        "thc histogram volume.ome.zarr --by roi --box 0:150,300:450,300:450",
    )  # fmt: skip
    _add_question(p, by="roi")

    p = commands.add(
        _fractions, "which share of each region each structure takes, with intervals",
        "thc fractions volume.ome.zarr --of microstructure --by roi -o f.csv",
    )  # fmt: skip
    _add_question(p, by="roi")
    p.add_argument("--of", default="microstructure", metavar="N", help="label set of structures")
    p.add_argument("--confidence", type=float, default=0.95, help="of the intervals (0.95)")
    p.add_argument("--resamples", type=_whole, default=2000, help="of the bootstrap (2000)")
    p.add_argument("--seed", type=_whole, default=0, help="of the bootstrap")

    p = commands.add(
        _compare, "how far apart the intensity distributions of regions are",
        "thc compare volume.ome.zarr --by roi -o d.csv",
    )  # fmt: skip
    _add_question(p, by="roi")
    p.add_argument("--smoothing", type=float, default=1e-6, help="added to counts for kl (1e-6)")

    for run, does, target, example in (
        (_figures, "draw the paper's panels", "figures", "thc figures volume.ome.zarr -o figures"),
        (_report, "write one HTML report", "report.html", "thc report volume.ome.zarr -o r.html"),
    ):
        p = commands.add(run, does, example)
        p.add_argument("store", metavar="STORE")
        p.add_argument("-o", "--out", default=target, help=f"where to ({target})")
        p.add_argument("--by", metavar="N", help="label set of regions (the first)")
        p.add_argument("--of", metavar="N", help="label set of structures (the first)")
        p.add_argument("--box", type=_asked(parse_box), help="z0:z1,y0:y1,x0:x1 in micrometers")
        if run is _figures:
            p.add_argument(
                "--format", default="png", choices=("png", "svg", "pdf"), help="of the files (png)"
            )

    p = commands.add(_info, "what is in a store", "thc info volume.ome.zarr")
    p.add_argument("store", metavar="STORE")

    p = commands.add(
        _verify, "prove that a store is whole, byte by byte",
        "thc verify volume.ome.zarr\nthc verify volume.ome.zarr --repair",
    )  # fmt: skip
    p.add_argument("store", metavar="STORE")
    p.add_argument("--repair", action="store_true", help="make what is broken anew")
    p.add_argument("--source", help="the image's source, if it has moved since")


def _add_question(parser: argparse.ArgumentParser, by: str) -> None:
    parser.add_argument("store", metavar="STORE")
    parser.add_argument("--by", default=by, metavar="N", help=f"label set ({by})")
    parser.add_argument(
        "--box", type=_asked(parse_box), help="z0:z1,y0:y1,x0:x1 in micrometers, half-open"
    )
    parser.add_argument("-o", "--out", metavar="FILE", help=".csv .parquet .json .nc or .zarr")


# ---- commands -----------------------------------------------------------------------------


def _demo(args: Arguments) -> None:
    from thc_dask.demo import SHAPE, demo

    started = time.monotonic()
    tell = (lambda line: None) if args.json else print
    page = demo(
        args.directory, shape=args.shape or SHAPE, seed=args.seed, data=args.data, tell=tell
    )
    if args.json:
        print(json.dumps({"report": str(page)}))
    else:
        print(f"done in {time.monotonic() - started:.1f} s; open {page} in a browser")


def _phantom(args: Arguments) -> None:
    from thc_dask.sources.phantom import DEFAULT_SHAPE, write_phantom

    made = write_phantom(args.directory, shape=args.shape or DEFAULT_SHAPE, seed=args.seed)
    _show(args, made if isinstance(made, dict) else asdict(made))


def _convert(args: Arguments) -> None:
    from thc_dask.convert import MEMORY_BYTES, write_store

    with _Bar("convert", "voxels", args.json or args.dry_run) as progress:
        plan = write_store(
            args.source, args.store, spacing=args.spacing, levels=args.levels, chunk=args.chunk,
            shard=args.shard, codec=args.codec, memory_bytes=args.memory or MEMORY_BYTES,
            window=args.window, order=args.order, flip=args.flip, crop=args.crop,
            overwrite=args.overwrite, resume=args.resume, dry_run=args.dry_run, progress=progress,
        )  # fmt: skip
    if args.json or args.dry_run:
        _show(args, asdict(plan))
    else:
        print(f"{args.store}: {' x '.join(map(str, plan.shape))} voxels, {plan.n_levels} levels")


def _labels(args: Arguments) -> None:
    from thc_dask.labels import write_labels

    extents: list[Extent] | None = None
    if args.extent:
        extents = [parse_extent(text) for text in args.extent]
    into = args.name if args.into is True else args.into
    if args.into is True and not args.name:
        raise RequestError("--into: name the label set to add to: --into roi")
    with _Bar("labels", "voxels", args.json) as progress:
        kept = write_labels(
            args.source, args.store, args.name, args.scheme, planes=args.planes, extents=extents,
            offset=args.offset, into=into, overwrite=args.overwrite, progress=progress,
        )  # fmt: skip
    known = sum(e.n_vox for e in kept.extents)
    facts = {"labels": kept.name, "scheme": kept.scheme.name, "n_known_vox": known}
    _show(args, facts | {"extents": [str(e) for e in kept.extents]})


def _count(args: Arguments) -> None:
    from thc_dask.count import write_counts
    from thc_dask.info import info

    names = [n for text in args.labels or [] for n in text.split(",")] or None
    with _Bar("count", "shards", args.json) as progress:
        store = write_counts(args.store, names, progress=progress)
    _show(args, {"store": store.url, "tables": info(store)["tables"]})


def _histogram(args: Arguments) -> None:
    from thc_dask.analysis.regions import histogram

    _answer(args, lambda box: histogram(args.store, args.by, box))


def _fractions(args: Arguments) -> None:
    from thc_dask.analysis.regions import fractions

    _answer(
        args,
        lambda box: fractions(
            args.store, args.of, args.by, box,
            confidence=args.confidence, n_resamples=args.resamples, seed=args.seed,
        ),
    )  # fmt: skip


def _compare(args: Arguments) -> None:
    from thc_dask.analysis.regions import compare

    _answer(args, lambda box: compare(args.store, args.by, box, smoothing=args.smoothing))


def _figures(args: Arguments) -> None:
    from thc_dask.figures import figures

    files = figures(
        args.store, args.out, by=args.by, of=args.of, box=args.box, suffix=f".{args.format}"
    )
    _show(args, {"figures": [str(path) for path in files]})


def _report(args: Arguments) -> None:
    from thc_dask.report import report

    page = report(args.store, args.out, by=args.by, of=args.of, box=args.box)
    _show(args, {"report": str(page)})


def _info(args: Arguments) -> None:
    from thc_dask.info import info

    _show(args, info(args.store))


def _verify(args: Arguments) -> None:
    from thc_dask.verify import verify

    with _Bar("verify", "files", args.json) as progress:
        found = verify(args.store, repair=args.repair, source=args.source, progress=progress)
    _show(args, found)
    if not found["whole"]:
        first = found["problems"][0]
        more = f" and {len(found['problems']) - 1} more" if len(found["problems"]) > 1 else ""
        raise DataError(
            f"{args.store} is not whole: {first['key']} is {first['what']}{more}; thc verify "
            "--repair mends what can be made anew"
        )


# ---- printing -----------------------------------------------------------------------------


def _answer(args: Arguments, ask: Callable[[Box | None], Any]) -> None:
    """Print a table, or write it where ``-o`` says."""
    from thc_dask import output

    if args.out:
        output.check_target(args.out)
    table = ask(args.box).compute()
    if args.out:
        output.write_table(table, args.out)
        _show(args, {"written": args.out, "answered_from": table.attrs["answered_from"]})
    elif args.json:
        print(output.as_json(table))
    else:
        print(output.long_table(table).to_string(index=False, max_rows=60))


def _show(args: Arguments, facts: dict[str, Any]) -> None:
    """Print facts: JSON for machines, indented lines for people."""
    if args.json:
        print(json.dumps(facts))
        return
    for line in _lines(facts, ""):
        print(line)


def _lines(value: dict[str, Any], indent: str) -> list[str]:
    lines = []
    for key, item in value.items():
        if isinstance(item, dict) and item:
            lines += [f"{indent}{key}:", *_lines(item, indent + "  ")]
        elif isinstance(item, list | tuple) and item and isinstance(item[0], dict):
            for i, part in enumerate(item):
                lines += [f"{indent}{key} {i}:", *_lines(part, indent + "  ")]
        elif isinstance(item, list | tuple):
            lines.append(f"{indent}{key}: {', '.join(map(str, item))}")
        else:
            lines.append(f"{indent}{key}: {item if item not in ({}, None) else 'none'}")
    return lines


class _Bar:
    """Progress on standard error: a bar on a terminal, a line a tenth elsewhere."""

    def __init__(self, what: str, unit: str, quiet: bool) -> None:
        self._what, self._unit, self._quiet = what, unit, quiet
        self._started = time.monotonic()
        self._tenth = 0
        self._drawn = 0.0

    def __enter__(self) -> Callable[[int, int], None] | None:
        return None if self._quiet else self._update

    def __exit__(self, *_: object) -> None:
        if self._drawn:
            print(file=sys.stderr)

    def _update(self, done: int, total: int) -> None:
        now = time.monotonic()
        rate = done / max(now - self._started, 1e-9)
        left = (total - done) / rate if rate else 0.0
        share = done / max(total, 1)
        line = f"{self._what}: {share:4.0%}  {_short(rate)}{self._unit}/s  {left:.0f} s left"
        if sys.stderr.isatty():
            if now - self._drawn > 0.1 or done == total:
                bar = "#" * int(30 * share)
                print(f"\r{line}  [{bar:<30}]", end="", file=sys.stderr, flush=True)
                self._drawn = now
        elif int(10 * share) > self._tenth:
            self._tenth = int(10 * share)
            print(line, file=sys.stderr, flush=True)


def _short(n: float) -> str:
    for unit in ("", "k", "M", "G"):
        if n < 1000 or unit == "G":
            return f"{n:.3g} {unit}"
        n /= 1000
    raise AssertionError
