"""The verbs: each takes what was asked for, calls the function of its name, prints what it gives.

What a verb needs is imported when it runs, so that no command waits for another's packages.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import asdict
from functools import partial
from typing import Any

from thc_dask.cli.printing import answer, print_table, show
from thc_dask.cli.progress import Meter
from thc_dask.errors import DataError, RequestError

Arguments = argparse.Namespace


def demo(args: Arguments) -> None:
    """Go from nothing to a report."""
    from thc_dask.demo import SHAPE, demo

    started = time.monotonic()
    tell = (lambda line: None) if args.json else print
    page = demo(
        args.directory, shape=args.shape or SHAPE, seed=args.seed, data=args.data, tell=tell
    )
    if args.json:
        show({"report": str(page)}, as_json=True)
    else:
        print(f"done in {time.monotonic() - started:.1f} s; open {page} in a browser")


def phantom(args: Arguments) -> None:
    """Write a synthetic volume."""
    from thc_dask.sources.phantom import DEFAULT_SHAPE, write_phantom

    shape = args.shape or DEFAULT_SHAPE
    with Meter("phantom", "planes", args.json) as meter:
        made = write_phantom(args.directory, shape=shape, seed=args.seed, progress=meter)
    show(asdict(made), args.json)


def convert(args: Arguments) -> None:
    """Write a source to a store."""
    from thc_dask.cli.plan import outcome, plan_lines
    from thc_dask.convert import carry_out, plan_store
    from thc_dask.options import MEMORY_BYTES, Conversion
    from thc_dask.plan import warn_of_limits

    options = Conversion(
        spacing=args.spacing, levels=args.levels, chunk=args.chunk, shard=args.shard,
        codec=args.codec, window=args.window, order=args.order, flip=args.flip, crop=args.crop,
        memory_bytes=args.memory or MEMORY_BYTES, overwrite=args.overwrite, resume=args.resume,
        count=args.count,
    )  # fmt: skip
    if args.dry_run:
        plan = plan_store(args.source, args.store, options)
        if args.json:
            show(asdict(plan), as_json=True)
        else:
            print(*plan_lines(plan), sep="\n")
        warn_of_limits(plan, options.memory_bytes, args.store)
        return
    with Meter("convert", "voxels", args.json, key="vox") as meter:
        done = carry_out(args.source, args.store, options, meter)
    if args.json:
        facts = {name: value for name, value in asdict(done).items() if name != "plan"}
        show(asdict(done.plan) | facts | {"vox_per_s": done.n_vox / done.seconds}, as_json=True)
    else:
        print(f"{args.store}: {outcome(done)}")


def labels(args: Arguments) -> None:
    """Bring a label set into a store."""
    from thc_dask.grid import parse_extent
    from thc_dask.labels import write_labels

    extents = [parse_extent(text) for text in args.extent] if args.extent else None
    into = args.name if args.into is True else args.into
    if args.into is True and not args.name:
        raise RequestError("--into: name the label set to add to: --into roi")
    with Meter("labels", "voxels", args.json, key="vox") as meter:
        kept = write_labels(
            args.source, args.store, args.name, args.scheme, planes=args.planes, extents=extents,
            offset=args.offset, order=args.order, flip=args.flip, into=into,
            overwrite=args.overwrite, progress=meter,
        )  # fmt: skip
    known = sum(e.n_vox for e in kept.extents)
    facts = {"labels": kept.name, "scheme": kept.scheme.name, "n_known_vox": known}
    show(facts | {"extents": [str(e) for e in kept.extents]}, args.json)


def interpolate(args: Arguments) -> None:
    """Fill a label set between its planes."""
    from thc_dask import output
    from thc_dask.interpolate import describe, leave_one_out, write_interpolated

    if args.out:
        output.check_target(args.out)
    with Meter("interpolate", "voxels", args.json, key="vox") as meter:
        kept = write_interpolated(
            args.store, args.labels, args.into, overwrite=args.overwrite, progress=meter
        )
    scores = leave_one_out(kept.store, kept.name)
    facts = {"labels": kept.name, "n_known_vox": sum(e.n_vox for e in kept.extents)}
    if args.out:
        output.write_table(scores, args.out)
        facts["written"] = args.out
    show(facts | describe(kept), args.json)


def count(args: Arguments) -> None:
    """Count once."""
    from thc_dask.count import write_counts
    from thc_dask.renewal import states

    names = [n for text in args.labels or [] for n in text.split(",")] or None
    with Meter("count", "shards", args.json) as meter:
        store = write_counts(args.store, names, progress=meter)
    show({"store": store.url, "tables": states(store)}, args.json)


def histogram(args: Arguments) -> None:
    """Count intensities by region."""
    from thc_dask.analysis.regions import emptiness, histogram

    def ask() -> Any:
        counts = histogram(args.store, args.by, args.box, aligned=args.aligned).compute()
        return counts.assign_attrs(emptiness(counts))  # what was lazy could not tell before

    answer(ask, args.out, args.json)


def fractions(args: Arguments) -> None:
    """Tell the shares of structures by region."""
    from thc_dask.analysis.regions import fractions

    ask = partial(
        fractions, args.store, args.of, args.by, args.box, aligned=args.aligned, **_drawing(args)
    )
    answer(ask, args.out, args.json)


def summary(args: Arguments) -> None:
    """Tell what intensities come to by region."""
    from thc_dask.analysis.regions import summary

    answer(partial(summary, args.store, args.by, args.box, **_drawing(args)), args.out, args.json)


def compare(args: Arguments) -> None:
    """Tell how regions differ."""
    from thc_dask.analysis.comparison import compare

    ask = partial(
        compare, args.store, args.by, args.box, of=args.of, measures=args.measures,
        smoothing=args.smoothing, n_permutations=args.permutations, **_drawing(args),
    )  # fmt: skip
    answer(ask, args.out, args.json)


def profile(args: Arguments) -> None:
    """Tell what regions come to along an axis."""
    from thc_dask.analysis.profile import profile

    ask = partial(
        profile, args.store, args.along, args.by, args.of, args.box, step_um=args.step,
        **_drawing(args),
    )  # fmt: skip
    answer(ask, args.out, args.json)


def maps(args: Arguments) -> None:
    """Make coarse images."""
    from thc_dask.maps import maps

    ask = partial(
        maps, args.store, args.of, by=args.by, region=args.region, cell_um=args.cell,
        denominator=args.denominator,
    )  # fmt: skip
    if args.out:
        answer(ask, args.out, args.json)
        return
    made = ask(keep=True)
    about = {name: made.attrs[name] for name in ("cell_um", "answered_from")}
    show({"maps": [f"maps/{name}" for name in made if name != "n_vox"]} | about, args.json)


def _drawing(args: Arguments) -> dict[str, Any]:
    """Return what is counted and how it is drawn."""
    from thc_dask.grid import parse_extent

    drawing = {
        "denominator": args.denominator, "block": args.block, "confidence": args.confidence,
        "n_resamples": args.resamples, "seed": args.seed,
    }  # fmt: skip
    if "cubes" not in args:
        return drawing
    cubes: Any = args.cubes
    if cubes is not None:
        cubes = "auto" if cubes == ["auto"] else [parse_extent(text) for text in cubes]
    return drawing | {"cubes": cubes}


def patches(args: Arguments) -> None:
    """Draw views inside regions."""
    from thc_dask.output import check_apart
    from thc_dask.patches import key_path, patches
    from thc_dask.patches.extras import Extras
    from thc_dask.patches.table import facts, key_of

    more = Extras(args.sheet, args.examples, args.classify, args.answers)
    more.check(args.test)
    check_apart(args.out, args.key, *more.files)
    with Meter("patches", "parts", args.json) as meter:
        found = patches(
            args.store, args.by, size_um=args.size, n_per_region=args.per_region,
            regions=args.regions, merge=args.merge, test=args.test, margin_um=args.margin,
            level=args.level, seed=args.seed, out=args.out, key=args.key, progress=meter,
        )  # fmt: skip
    if not (args.out or args.key or more.files):
        print_table(key_of(found), args.json)
        return
    made = more.write(found, args.seed)
    own = [args.out, args.key or (str(key_path(args.out)) if args.out else None)]
    made["written"] = [*filter(None, own), *made["written"]]
    show(facts(found) | made, args.json)


def agreement(args: Arguments) -> None:
    """Score annotators."""
    from thc_dask import output
    from thc_dask.agreement import TABLES, agreement, summary

    if args.table not in ("all", *TABLES):
        raise RequestError(f"--table {args.table}: give all or one of {', '.join(TABLES)}")
    if args.out:
        output.check_target(args.out)
    found = agreement(
        args.answers, key=args.key, annotators=args.annotators, dataset=args.dataset,
        item=args.item, classes=args.classes, missing=args.missing, confidence=args.confidence,
        n_resamples=args.resamples, seed=args.seed,
    )  # fmt: skip
    table = summary(found) if args.table == "all" else found[args.table].to_dataset()
    if args.out:
        output.write_table(table, args.out)
        missing = {"n_missing": table.attrs["n_missing"]}
        show({"written": args.out, "table": args.table} | missing, args.json)
    else:
        print_table(table, args.json)
        if not args.json:
            show({"n_missing": table.attrs["n_missing"]}, args.json)


def figures(args: Arguments) -> None:
    """Draw the panels."""
    from thc_dask.figures import figures

    files = figures(
        args.store, args.out, by=args.by, of=args.of, box=args.box, suffix=f".{args.format}"
    )
    show({"figures": [str(path) for path in files]}, args.json)


def report(args: Arguments) -> None:
    """Write one HTML page."""
    from thc_dask.report import report

    page = report(args.store, args.out, by=args.by, of=args.of, box=args.box)
    show({"report": str(page)}, args.json)


def reproduce(args: Arguments) -> None:
    """Make the paper's figures."""
    from thc_dask.cli.printing import print_reproduction
    from thc_dask.reproduce import reproduce

    made = reproduce(
        args.data, args.out, image=args.image, labels=args.labels, n_resamples=args.resamples,
        confidence=args.confidence, seed=args.seed,
    )  # fmt: skip
    if args.json:
        show(asdict(made), as_json=True)
    else:
        print_reproduction(made)


def info(args: Arguments) -> None:
    """Say what is in a store."""
    from thc_dask.info import info

    show(info(args.store), args.json)


def verify(args: Arguments) -> None:
    """Prove that a store is whole."""
    from thc_dask.verify import verify

    with Meter("verify", "files", args.json) as meter:
        found = verify(args.store, repair=args.repair, source=args.source,
                       spot_checks=args.spot_checks, seed=args.seed, progress=meter)  # fmt: skip
    show(found, args.json)
    if found["left_over"] and not args.json:
        print(
            "unless a command is at work, what is left over is of one that was cut off; the next "
            "that writes removes it, or thc verify --repair"
        )
    if not found["whole"]:
        first = found["problems"][0]
        more = f" and {len(found['problems']) - 1} more" if len(found["problems"]) > 1 else ""
        raise DataError(
            f"{args.store} is not whole: {first['key']} is {first['what']}{more}; thc verify "
            "--repair mends what can be made anew"
        )


def cluster(args: Arguments) -> None:
    """Say what a cluster would be, or start it and measure."""
    from thc_dask.cli import clusters

    clusters.ACTIONS[args.action](args)
