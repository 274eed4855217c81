"""What is left when a run is cut off after its first, second, … last change on disk."""

import errno
import itertools
import threading
from contextlib import contextmanager

import fsspec
import numpy as np
import pytest
import yaozarrs
import zarr
from fsspec.implementations.memory import MemoryFileSystem

from tests.assertions import joint_counts, mean_pyramid, new_store, read_files
from tests.strategies import source
from thc_dask import histogram, open_volume, verify
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.errors import ExistsError, MissingError, UnfinishedError, WriteError
from thc_dask.labels import write_labels
from thc_dask.maps import maps
from thc_dask.reader import read
from thc_dask.schemes import Label, Scheme
from thc_dask.store.location import locate
from thc_dask.store.read import Store
from thc_dask.store.root import ROOT_COPY
from thc_dask.store.staging import tidy

SHAPE = (4, 4, 8)
SMALL = {"chunk": (4, 4, 4), "shard": (4, 4, 4), "levels": 2}  # each level is a wave
RNG = np.random.default_rng(12)
OLD, NEW = (RNG.integers(0, 256, SHAPE, np.uint8) for _ in range(2))
SCHEME = Scheme("s", "region", (Label(0, "none"), Label(3, "a"), Label(7, "b")))
ROI, MORE = (RNG.choice(SCHEME.codes, SHAPE).astype(np.uint8) for _ in range(2))


class Breaking(MemoryFileSystem):
    """The objects of ``memory://``, until the disk is full or the power gone."""

    protocol = "breaking"
    lock = threading.Lock()
    left, power_goes = None, False

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.replace("breaking://", "memory://", 1))

    def _change(self, is_removal):
        cls = type(self)
        with cls.lock:
            if cls.left is None or (is_removal and not cls.power_goes):
                return
            if cls.left == 0:
                raise OSError(errno.ENOSPC, "No space left on device")
            cls.left -= 1

    def pipe_file(self, path, value, mode="overwrite", **kwargs):
        self._change(is_removal=False)
        return super().pipe_file(path, value, mode, **kwargs)

    def cp_file(self, path1, path2, **kwargs):
        self._change(is_removal=False)
        return super().cp_file(path1, path2, **kwargs)

    def rm_file(self, path):
        self._change(is_removal=True)
        return super().rm_file(path)


fsspec.register_implementation("breaking", Breaking, clobber=True)


@contextmanager
def cut_off(after, power_goes):
    """Let ``after`` changes succeed and no more; removals too, or only what takes space."""
    Breaking.left, Breaking.power_goes = after, power_goes
    try:
        yield
    finally:
        Breaking.left = None


def cuts(prepare, change, power_goes):
    """Cut ``change`` off after every step; yield the store as it was, and as it is now."""
    before, memory = files_after(prepare), fsspec.filesystem("memory")
    for after in itertools.count():
        memory.store.clear()  # it looks through all it has for each list
        url = new_store()
        memory.pipe({f"{url}/{key}": data for key, data in before.items()})
        try:
            with cut_off(after, power_goes):
                change(url.replace("memory", "breaking"))
        except WriteError:
            yield url, before
        else:
            assert after > 10
            return


def files_after(*steps):
    """Return the files of a store that nothing disturbed."""
    url = new_store()
    for step in steps:
        step(url)
    return read_files(url)


def convert_old(url):
    write_store(source(OLD), url, **SMALL)


def convert_new(url, **options):
    write_store(source(NEW), url, **SMALL, **options)


def add_first(url):
    write_labels(source(ROI), url, "roi", SCHEME, planes=[0, 3])


def add_more(url):
    write_labels(source(MORE), url, into="roi", planes=[1])


def replace(url):
    write_labels(source(MORE), url, "roi", SCHEME, planes=[1], overwrite=True)


def assert_valid(url, folder):
    """The specification holds; its validator wants a folder."""
    for key, data in read_files(url).items():
        if key.endswith("zarr.json"):
            (folder / key).parent.mkdir(parents=True, exist_ok=True)
            (folder / key).write_bytes(data)
    yaozarrs.validate_zarr_store(folder)


def voxels_and_metadata(files):
    """Return what others read: all but our own records."""
    return {key: data for key, data in files.items() if not key.startswith("thc/")}


def in_turn(states):
    """Return the states that followed one another."""
    return [state for state, _ in itertools.groupby(states)]


@pytest.mark.parametrize("power_goes", [True, False], ids=["power", "disk"])
@pytest.mark.parametrize("overwrite", [True, False])
def test_a_conversion_cut_off_anywhere_is_no_store(overwrite, power_goes):
    prepare = convert_old if overwrite else lambda url: None
    whole, states = files_after(convert_new), []
    for url, before in cuts(prepare, lambda u: convert_new(u, overwrite=overwrite), power_goes):
        left = read_files(url)
        if "zarr.json" in left:
            states.append("old" if left["zarr.json"] == before.get("zarr.json") else "new")
            assert_image(url, OLD if states[-1] == "old" else NEW)
            yaozarrs.validate_zarr_store(url)
        else:
            states.append("none")
            with pytest.raises(UnfinishedError if left else MissingError):
                Store(url)
            with pytest.raises(FileNotFoundError):
                zarr.open_group(url, mode="r")
            if left:
                with pytest.raises(ExistsError, match="holds an unfinished conversion"):
                    convert_new(url)
        convert_new(url, overwrite=True)
        assert read_files(url) == whole
    # The root is the last that is written; after it, only what is superfluous is removed.
    assert in_turn(states) == ["old"] * overwrite + ["none"] + ["new"] * power_goes


def test_what_was_cut_off_anywhere_is_resumed_to_the_same_bytes():
    whole = files_after(convert_new)
    for url, _ in cuts(lambda url: None, convert_new, power_goes=True):
        convert_new(url, resume=True)
        assert voxels_and_metadata(read_files(url)) == voxels_and_metadata(whole)


def assert_image(url, array):
    """Every level is there, of one image and not of two."""
    store = Store(url)
    for k, expected in enumerate(mean_pyramid(array, 2)):
        found = read(store.image(k), store.levels[k].grid.extent)
        np.testing.assert_array_equal(found, expected)


def assert_answers(url, array, planes):
    """Counting gives what numpy gives, from tables or voxels."""
    known = np.isin(np.arange(SHAPE[0]), planes)[:, None, None] & np.ones(SHAPE, bool)
    np.testing.assert_array_equal(
        histogram(url), joint_counts(array, OLD, SCHEME.codes, np.arange(256), known)[0]
    )
    found = read(Store(url).label_set("roi").array(), Store(url).grid.extent)
    np.testing.assert_array_equal(found, np.where(known, array, 0))


MIXED = np.where(np.arange(SHAPE[0])[:, None, None] == 1, MORE, ROI)


@pytest.mark.parametrize("power_goes", [True, False], ids=["power", "disk"])
@pytest.mark.parametrize(
    ("steps", "change", "array", "planes"),
    [
        ([convert_old], add_first, ROI, [0, 3]),
        ([convert_old, add_first, write_counts], add_more, MIXED, [0, 1, 3]),
        ([convert_old, add_first, write_counts], replace, MORE, [1]),
    ],
    ids=["first", "into", "overwrite"],
)
def test_labels_cut_off_anywhere_are_old_or_gone_or_new(
    steps, change, array, planes, power_goes, tmp_path
):
    def prepare(url):
        for step in steps:
            step(url)

    whole, states = files_after(prepare, change), []
    for url, before in cuts(prepare, change, power_goes):
        left, sets = read_files(url), Store(url).label_sets
        is_old = left["zarr.json"] == before["zarr.json"]
        states.append("old" if is_old else "new" if "roi" in sets else "gone")
        assert_image(url, OLD)
        if is_old and (sets or not power_goes):
            assert voxels_and_metadata(left) == voxels_and_metadata(before)
        if len(states) % 6 and states[-2:-1] == states[-1:]:
            continue  # the rest takes time
        assert_valid(url, tmp_path / str(len(states)))
        if sets:
            assert_answers(url, *((ROI, [0, 3]) if is_old else (array, planes)))
        if states[-1] == "gone":
            with pytest.warns(UserWarning, match="labels/roi is just being replaced"):
                open_volume(url)
            with pytest.raises(MissingError, match="complete it with thc verify --repair"):
                histogram(url)
        if states[-1] != "new":
            change(url)  # begins anew, or completes what was certain
            tidy(locate(url), alone=True)
            assert read_files(url) == whole
            assert_answers(url, array, planes)
    assert in_turn(states) in (["old"], ["old", "gone"], ["old", "new"], ["old", "gone", "new"])


def test_a_new_label_set_that_was_cut_off_is_known_and_swept_up():
    states = []
    for url, before in cuts(convert_old, add_first, power_goes=True):
        states.append("new" if Store(url).label_sets else "old")
        if len(states) % 3 and states[-2:-1] == states[-1:]:
            continue  # the rest takes time
        found = verify(url, spot_checks=0)
        assert found["unknown"] == []
        assert {p["key"] for p in found["problems"]} <= {ROOT_COPY}
        mended = verify(url, repair=True, spot_checks=0)
        assert (mended["whole"], mended["left_over"], mended["unknown"]) == (True, [], [])
        if states[-1] == "old":
            assert read_files(url) == before
    assert in_turn(states) == ["old", "new"]


def map_means(url):
    maps(url, "image", cell_um=2, keep=True)


@pytest.mark.parametrize("change", [write_counts, map_means])
@pytest.mark.parametrize("again", [False, True], ids=["first", "again"])
def test_tables_and_maps_that_were_cut_off_are_known_and_swept_up(change, again):
    def prepare(url):
        convert_old(url)
        add_first(url)
        if again:
            change(url)
            add_more(url)

    top, states = ("counts", "maps")[change is map_means], []
    for url, _ in cuts(prepare, change, power_goes=True):
        states.append("there" if any(p.startswith(f"{top}/") for p in Store(url).nodes) else "none")
        if len(states) % 4 and states[-2:-1] == states[-1:]:
            continue  # the rest takes time
        assert verify(url, spot_checks=0)["unknown"] == []
        mended = verify(url, repair=True, spot_checks=0)
        assert (mended["whole"], mended["left_over"], mended["unknown"]) == (True, [], [])
        if states[-1] == "none":
            left = {key for key in read_files(url) if f"{top}/" in key}
            assert left <= {f"{top}/zarr.json"}  # a group that the root still names
    assert in_turn(states) in (["none", "there"], ["there", "none", "there"])


def test_tables_cut_off_anywhere_are_right_or_not_there(tmp_path):
    def prepare(url):
        for step in (convert_old, add_first, write_counts, add_more):
            step(url)

    whole = files_after(prepare, write_counts)
    for i, (url, _) in enumerate(cuts(prepare, write_counts, power_goes=True)):
        assert_answers(url, MIXED, [0, 1, 3])
        if i % 6 == 0:
            assert_valid(url, tmp_path / str(i))
            write_counts(url)
            assert read_files(url) == whole
