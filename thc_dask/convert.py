"""Any source to a store: plan it, write it shard by shard, publish it."""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thc_dask import __version__, schedule
from thc_dask.clipping import clipped
from thc_dask.errors import DataError, FailureError, RequestError
from thc_dask.grid import Grid, Vox, parse_spacing
from thc_dask.imagetable import ImageTable
from thc_dask.kernels.mean import compile_mean
from thc_dask.options import MEMORY_BYTES as MEMORY_BYTES
from thc_dask.options import Conversion, wanted
from thc_dask.origin import (
    check_complete,
    identity,
    inmost,
    is_within,
    places_of,
    whereabout,
)
from thc_dask.pairs import IMAGE, table_of_image
from thc_dask.plan import (
    Plan,
    estimate,
    plan_conversion,
    sample_boxes,
    warn_of_limits,
    warn_of_workers,
)
from thc_dask.progress import Progress
from thc_dask.reader import Reader, read
from thc_dask.sources import open_reader
from thc_dask.store import sight
from thc_dask.store.halving import MeanOfVoxels
from thc_dask.store.layout import Level, default_chunk, default_shard, make_levels
from thc_dask.store.location import Location, locate
from thc_dask.store.pipeline import compile_pipeline
from thc_dask.store.publish import (
    PLAN,
    begin,
    check_place,
    go_on,
    interrupted,
    is_ours,
    publish_image,
    sweep,
)
from thc_dask.store.read import Store, open_volume
from thc_dask.store.root import ROOT
from thc_dask.store.shards import Codec
from thc_dask.store.staging import tidy
from thc_dask.store.tables import n_files_of_all
from thc_dask.store.target import Target
from thc_dask.store.write import plan_waves
from thc_dask.views import EightBit
from thc_dask.waves import Tasks, n_bytes, n_shards, n_vox_todo, run_waves, unfinished

if TYPE_CHECKING:
    import xarray as xr

LARGE_VOX = 2**29  # such a volume repays compiling the mean
COUNTS = f"counts/{IMAGE}"


@dataclass(frozen=True)
class Outcome:
    """What a conversion did."""

    plan: Plan
    """What was to be done."""
    seconds: float
    """From the first look at the source to the last byte."""
    n_vox: int
    """Voxels of level 0 that were made; of a run that went on, only those still missing."""
    written_bytes: int
    """Shards that were written, compressed."""
    n_files: int
    """Files of the image in the store."""


@dataclass(frozen=True)
class _Job:
    """A conversion that could begin."""

    location: Location
    reader: Reader
    """The source's own grey levels, its axes as they will be."""
    levels: list[Level]
    options: Conversion
    record: dict[str, Any]
    """What the store will say of its making."""
    begun: dict[str, Any] | None
    """What an interrupted run said of it."""

    def plan(self, reader: Reader) -> tuple[Target, Tasks, Plan]:
        """Return where it goes, the tasks, and what they cost; ``reader`` is what is stored."""
        codec = Codec.parse(self.options.codec)
        target = Target(
            self.location, "", "image", reader.dtype, codec, MeanOfVoxels(),
            counted=self.options.count,
        )  # fmt: skip
        # Elsewhere each task has a thread of its own.
        threads = schedule.n_threads() if schedule.is_local() else 1
        tasks = plan_waves(
            target, self.levels, reader, threads, schedule.room(self.options.memory_bytes)
        )
        passes, counting = 1, 0
        if self.counted_percentiles is not None:
            from thc_dask.normalise import counting_bytes

            passes, counting = 2, counting_bytes(self.reader, threads)
        n_table_files = 0
        if self.options.count:
            grid = self.levels[0].grid
            n_table_files = n_files_of_all(grid, table_of_image(grid, ""), self.levels[0].chunk)
        plan = plan_conversion(
            reader, self.levels, tasks, self.location.url, passes, n_table_files, counting
        )  # fmt: skip
        return target, tasks, plan

    @property
    def counted_percentiles(self) -> tuple[float, float] | None:
        """Which percentiles of the whole source make the window, None where it is known."""
        window = self.record["options"]["window"]
        if window is None or (self.begun and self.begun["normalisation"] is not None):
            return None
        from thc_dask.normalise import percentiles

        return percentiles(window)


def write_store(
    source: Any,
    store: str | os.PathLike[str],
    *,
    dry_run: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> Plan:
    """Write the store as ``convert`` does and return the plan that was followed."""
    asked = wanted(**options)
    return (
        plan_store(source, store, asked)
        if dry_run
        else carry_out(source, store, asked, progress).plan
    )


def plan_store(source: Any, store: str | os.PathLike[str], options: Conversion) -> Plan:
    """Return what a conversion would do, after a look at a few places; writes nothing."""
    job = _prepare(source, store, options)
    reader = _looked_at_in_eight_bit(job)
    _, _, plan = job.plan(reader)
    return replace(plan, estimate=estimate(reader, job.levels, Codec.parse(options.codec)))


def carry_out(
    source: Any,
    store: str | os.PathLike[str],
    options: Conversion,
    progress: Progress | None = None,
) -> Outcome:
    """Write the store as ``convert`` does and return what that came to."""
    started = time.monotonic()
    job = _prepare(source, store, options)
    location, begun, record, options = job.location, job.begun, job.record, job.options
    if begun is None:
        check_place(location, options.overwrite)
    reader, normalisation = _eight_bit(job, progress)
    target, tasks, plan = job.plan(reader)
    _check_countable(job, reader)
    if begun is not None and begun.get("finished"):
        with location.lock():
            tidy(location)  # a run may be cut off just after its root was written
        return Outcome(plan, time.monotonic() - started, 0, 0, 0)
    _warn(job, reader, plan)
    record["normalisation"] = normalisation
    with location.lock():
        if begun is None:
            asked = {"place": _place_of(record), "plan": asdict(plan)}
            begin(location, record | asked, options.overwrite)
        else:
            go_on(location)
            tasks = unfinished(tasks)
        try:
            if reader.grid.n_vox >= LARGE_VOX:
                compile_mean()
                compile_pipeline()
            sight.exchange(location)
            table = ImageTable(target, job.levels[0]) if options.count else None
            receipts = run_waves(tasks, progress, table.add if table else None)
            if not schedule.is_local():
                sweep(location)  # a worker that was killed leaves what it had not finished
            if isinstance(reader, EightBit) and normalisation is not None:
                found = clipped(reader, job.levels[0], receipts, progress)
                record["normalisation"] = normalisation | found
            limits = (0.0, float(np.iinfo(reader.dtype).max))
            window = _window(target, job.levels[-1])
            more = table.write if table else None
            publish_image(target, job.levels, receipts, record, window, limits, more)
        except FailureError as error:
            error.args = (f"{error} ({_remedy(error)})",)
            raise
    kept = [receipt for wave, _ in tasks for receipt in wave.kept]
    return Outcome(
        plan,
        time.monotonic() - started,
        n_vox_todo(*tasks[0]),
        n_bytes(receipts) - n_bytes(kept),
        n_shards(receipts) - n_shards(kept) + plan.n_files - plan.n_shards,
    )


def _remedy(error: FailureError) -> str:
    """Return how to go on after a conversion that failed."""
    if type(error) is not DataError:
        return "--resume goes on where it stopped"
    # Another file in its place is another source: what was read of it may be in shards already.
    return "--resume goes on where it stopped if the source is what it was, --overwrite from anew"


def _check_countable(job: _Job, reader: Reader) -> None:
    """Raise RequestError where intensities are to be counted and cannot be."""
    if job.options.count and reader.dtype != np.uint8:
        raise RequestError(
            f"count: intensities are counted in uint8, and {reader.dtype.name} is to be stored; "
            "give --window auto, or LOW:HIGH"
        )
    finished = job.begun is not None and job.begun.get("finished")
    if job.options.count and finished and COUNTS not in Store(job.location).nodes:
        raise RequestError(
            f"{job.location.url} is finished, and was not counted on the way; thc count "
            f"{job.location.url} --labels image does it now"
        )


def _prepare(source: Any, store: str | os.PathLike[str], options: Conversion) -> _Job:
    """Open the source and decide the layout; raise where that is not what was begun."""
    if options.overwrite and options.resume:
        raise RequestError("overwrite and resume: one begins anew, the other goes on; give one")
    location = locate(store)
    location.check_writable()
    reader = _seen(source, options)
    _refuse_nesting(reader, source, store)
    chunk = options.chunk or default_chunk(reader.grid.shape)
    shard = options.shard or default_shard(chunk)
    levels = make_levels(reader.grid, options.levels, chunk, shard)
    codec, window = Codec.parse(options.codec), _window_asked(reader, options.window)
    record: dict[str, Any] = {
        "software": f"thc_dask {__version__}",
        "provenance": reader.provenance,
        "options": {"codec": str(codec), "window": window},
        "layout": _layout(reader.grid, len(levels), chunk, shard),
    }
    begun = interrupted(location) if options.resume else None
    if begun:
        _same(location.url, begun, record)
        record["provenance"] = begun["provenance"]  # the source as it was named first
    elif begun is not None:  # what is there was being removed
        begun, options = None, replace(options, overwrite=True)
    return _Job(location, reader, levels, options, record, begun)


def _warn(job: _Job, reader: Reader, plan: Plan) -> None:
    """Warn of too little memory, and of a disk that is likely to become full."""
    tight = plan.free_bytes is not None and plan.write_bytes > plan.free_bytes
    # What is overwritten or was begun has its room already.
    if tight and job.begun is None and job.location.get(ROOT) is None:
        plan = replace(plan, estimate=estimate(reader, job.levels, Codec.parse(job.options.codec)))
    asked = job.options.memory_bytes
    if plan.memory_bytes > schedule.room(asked) < asked:
        warn_of_workers(plan, schedule.room(asked))
    else:
        warn_of_limits(plan, asked, job.location.url)


def _seen(source: Any, options: Conversion) -> Reader:
    """Return the source with its axes as z, y, x, and only the part that is wanted."""
    spacing_um = None if options.spacing is None else parse_spacing(options.spacing)
    reader = open_reader(source, spacing_um, options.order)
    check_complete(reader)
    if not options.flip and options.crop is None:
        return reader
    from thc_dask import views

    return views.crop(views.reorder(reader, flip=options.flip), options.crop)


def _window_asked(reader: Reader, window: str | None) -> str | None:
    """Return the window to make 8 bit with; None keeps the grey levels."""
    if window is None and reader.dtype in (np.uint8, np.uint16):
        return None
    if reader.dtype.kind not in "uif":
        raise RequestError(f"source: voxels are {reader.dtype.name}; give whole or real numbers")
    if reader.dtype == np.uint8:
        raise RequestError(f"window {window!r}: the source is 8 bit already; leave --window out")
    return window or "auto"


def _eight_bit(job: _Job, progress: Progress | None = None) -> tuple[Reader, dict[str, Any] | None]:
    """Return the reader in 8 bit, if that is wanted, and what the store says of it."""
    window = job.record["options"]["window"]
    if window is None:
        return job.reader, None
    from thc_dask.kernels.intensity import Window
    from thc_dask.normalise import RULE, Normalisation, normalise

    if job.begun is not None and job.begun["normalisation"] is not None:
        found = job.begun["normalisation"]
        if found["rule"] != RULE and not job.begun.get("finished"):
            raise RequestError(
                f"{job.location.url}: what was written of it became 8 bit by another rule, that of "
                "an earlier version; --overwrite starts anew"
            )
        chosen = Normalisation(Window(*found["window"]), found["chosen"], found["source_dtype"])
    else:
        chosen = normalise(job.reader, window, progress)
    return EightBit(job.reader, chosen.window), chosen.record()


def _looked_at_in_eight_bit(job: _Job) -> Reader:
    """Return the reader in 8 bit, if that is wanted, through a window that a few places give."""
    ends = job.counted_percentiles
    if ends is None:
        return _eight_bit(job)[0]
    from thc_dask.kernels.intensity import Window

    boxes = sample_boxes(job.reader, job.levels[0].chunk)
    voxels = np.concatenate([read(job.reader, box).ravel() for box in boxes])
    finite = voxels[np.isfinite(voxels)]
    low, high = np.percentile(finite, ends) if finite.size else (0.0, 1.0)
    return EightBit(job.reader, Window(float(low), float(max(high, np.nextafter(low, np.inf)))))


def _layout(grid: Grid, levels: int, chunk: Vox, shard: Vox) -> dict[str, Any]:
    return {
        "shape": list(grid.shape),
        "spacing_um": list(grid.spacing_um),
        "origin_um": list(grid.origin_um),
        "levels": levels,
        "chunk": list(chunk),
        "shard": list(shard),
    }


def _place_of(record: dict[str, Any]) -> str:
    """Return where a source is, in one way of writing it: it may be named otherwise the next time.

    Of a relative path that is where it is from here.
    """
    return whereabout(str(inmost(record["provenance"]).get("location", "")))


def _same(url: str, begun: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Raise RequestError where a conversion that began is not the one that is asked for now."""
    in_place = begun.get("place", _place_of(begun)) == _place_of(wanted)
    for what in ("provenance", "layout", "options", "software"):
        before: Any = begun.get(what)
        now: Any = wanted[what]
        if what == "provenance" and in_place:
            before, now = identity(before), identity(now)
        if before == now:
            continue
        odd = ""
        while isinstance(before, dict) and isinstance(now, dict):
            odd = next(k for k in {**before, **now} if before.get(k) != now.get(k))
            before, now = before.get(odd), now.get(odd)
        if odd == "fingerprint":
            before, now = (
                f"{digits} ({inmost(record['provenance'])['location']})"
                for digits, record in ((before, begun), (now, wanted))
            )
        what = f"the source's {odd}" if what == "provenance" else f"{what} {odd}".rstrip()
        raise RequestError(
            f"{url}: {what} was {before} when the conversion began and is {now} now; give what "
            "was given then, or --overwrite to start anew"
        )


def _window(target: Target, level: Level) -> tuple[float, float]:
    """Return the grey levels that viewers start with: where all but 1 % of the coarsest lie."""
    # Voxels at the type's ends are clipped or empty; they say nothing of the contrast.
    voxels = read(target.reader(level), level.grid.extent)
    inner = voxels[(voxels > 0) & (voxels < np.iinfo(voxels.dtype).max)]
    if not inner.size:
        return 0.0, float(np.iinfo(voxels.dtype).max)
    low, high = np.percentile(inner, (0.5, 99.5), method="inverted_cdf")
    return float(low), float(max(high, low + 1))


def _refuse_nesting(reader: Reader, source: Any, store: str | os.PathLike[str]) -> None:
    """Raise RequestError where the store would be written over its own source, or into a store."""
    text = os.fspath(store).removeprefix("file://")
    named = isinstance(source, str | os.PathLike)
    for folder in () if "://" in text else Path(text).resolve().parents:
        above = locate(folder)
        root = above.get(ROOT)
        if (root is not None and is_ours(above, root)) or above.get(PLAN) is not None:
            raise RequestError(f"store {store} would lie inside the store {folder}; choose another")
        zarrs = (".zarray", ".zgroup", ROOT)
        here = named and is_within(source, folder) and is_within(folder, source)
        if here and any(above.size(name) is not None for name in zarrs):
            raise RequestError(
                f"store {store} would lie inside its source {source}; choose another"
            )
    for place in places_of(reader):
        if is_within(place, store):
            raise RequestError(
                f"store {store} would replace its own source {place}; choose another name"
            )


def convert(
    source: Any,
    store: str | os.PathLike[str],
    options: Conversion | None = None,
    *,
    progress: Progress | None = None,
    **more: Any,
) -> xr.DataTree:
    """Write a source to a sharded multiscale OME-Zarr store and return it, opened.

    Runs on the current ``distributed.Client``, else on what ``dask.config`` names, else in
    threads. The bytes written are the same.

    Parameters
    ----------
    source
        A path or an address of any known format, or a lazy ``(z, y, x)`` ``xarray.DataArray`` with
        coordinates in micrometers, or in the unit of length that their ``attrs["units"]`` name.
    store
        Path or URL of the store.
    options
        A ``Conversion``, which says what each option means.
    progress
        Called with voxels done and voxels in all; a ``thc_dask.progress.Watcher`` hears of bytes
        too.
    more
        Options by name: ``spacing``, ``levels``, ``chunk``, ``shard``, ``codec``; ``window`` (to 8
        bit), ``order``, ``flip``, ``crop``; ``count``; ``memory_bytes``, ``overwrite``, ``resume``.

    Raises
    ------
    RequestError
        The source or an option is wrong.
    ExistsError
        The store exists.
    DataError
        A file of the source is damaged.
    WriteError
        The target cannot be written.

    Examples
    --------
    >>> from tempfile import mkdtemp
    >>> volume = convert("phantom:32,64,96", mkdtemp() + "/volume.ome.zarr", levels=2)
    >>> volume["1/image"].sizes["x"]
    48
    """
    carry_out(source, store, wanted(options, **more), progress)
    return open_volume(store)
