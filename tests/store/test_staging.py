"""A change that has begun to take place is completed, wherever it breaks off."""

import os
import shutil
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest

from tests.assertions import read_files, read_voxels
from tests.strategies import source
from thc_dask import convert, info, open_volume, verify
from thc_dask.convert import write_store
from thc_dask.count import write_counts
from thc_dask.errors import DataError, MissingError, RequestError, WriteError
from thc_dask.labels import write_labels
from thc_dask.schemes import Label, Scheme
from thc_dask.store.location import locate
from thc_dask.store.read import Store
from thc_dask.store.staging import JOURNAL, STAGED, tidy

SHAPE = (4, 4, 8)
SMALL = {"chunk": (4, 4, 4), "shard": (4, 4, 4), "levels": 2}
RNG = np.random.default_rng(5)
IMAGE = RNG.integers(0, 256, SHAPE, np.uint8)
SCHEME = Scheme("s", "region", (Label(0, "none"), Label(3, "a"), Label(7, "b")))
OLD, NEW = (RNG.choice(SCHEME.codes, SHAPE).astype(np.uint8) for _ in range(2))
NEW[:, :, 4:] = 0  # a shard of the old set goes


class PowerCut(BaseException):
    """Nothing runs after it."""


class Dying:
    """A folder that takes so many operations after a journal was begun, and no more."""

    def __init__(self, store, n):
        self._folder, self._left, self.url = locate(store), n, str(store)
        self._begun = False

    def __getattr__(self, name):
        operation = getattr(self._folder, name)

        def counted(*arguments, **options):
            self._begun |= (name, *arguments[:1]) == ("exchange", JOURNAL)
            if self._begun and name != "lock":
                if self._left == 0:
                    raise PowerCut
                self._left -= 1
            return operation(*arguments, **options)

        return counted


def add(store):
    write_labels(source(NEW), store, into="roi", planes=[1])


def replace(store):
    write_labels(source(NEW), store, "roi", SCHEME, planes=[1, 2], overwrite=True)


def known(*planes):
    return np.isin(np.arange(SHAPE[0]), planes)[:, None, None]


CHANGES = {
    "add": (add, np.where(known(1), NEW, OLD) * known(0, 1, 3)),
    "replace": (replace, NEW * known(1, 2)),
}


@pytest.fixture(scope="module")
def folder():
    """A folder in memory, if there is one: waiting for a disk is most of the time."""
    shm = Path("/dev/shm")
    with TemporaryDirectory(dir=shm if os.access(shm, os.W_OK) else None) as name:
        yield Path(name)


@pytest.fixture
def tmp_path(folder):
    with TemporaryDirectory(dir=folder) as name:
        yield Path(name)


@pytest.fixture(scope="module")
def before(folder):
    """A store with a label set and its table."""
    store = folder / "before.ome.zarr"
    write_store(source(IMAGE), store, **SMALL)
    write_labels(source(OLD), store, "roi", SCHEME, planes=[0, 3])
    write_counts(store)
    return store


@pytest.fixture(scope="module", params=CHANGES)
def cuts(request, before, folder):
    """A change, what it makes, and stores in which it was cut off after each operation."""
    change, voxels = CHANGES[request.param]
    folder = folder / request.param
    undisturbed = shutil.copytree(before, folder / "undisturbed.ome.zarr")
    change(undisturbed)
    stores = []
    while True:
        store = Path(shutil.copytree(before, folder / f"{len(stores)}.ome.zarr"))
        try:
            change(Store(Dying(store, len(stores))))
        except PowerCut:
            stores.append(store)
        else:
            assert len(stores) > 20
            return change, voxels, read_files(undisturbed), stores


def copies(cuts, tmp_path):
    return [Path(shutil.copytree(store, tmp_path / store.name)) for store in cuts[3]]


def test_readers_find_the_old_or_none_or_the_new(cuts):
    _, new, _, stores = cuts
    old, states = OLD * known(0, 3), []
    for store in stores:
        opened = Store(store)
        if opened.unsettled is None:
            found = open_volume(store)["labels/roi/0/roi"].values
            states.append("old" if (found == old).all() else "new")
            np.testing.assert_array_equal(found, old if states[-1] == "old" else new)
            np.testing.assert_array_equal(read_voxels(store, "labels/roi/0/roi"), found)
        else:
            states.append("none")
            with pytest.warns(UserWarning, match="labels/roi is just being replaced"):
                volume = open_volume(store)
            assert "/labels" not in volume.groups
            with pytest.raises(MissingError, match="labels/roi is just being replaced"):
                opened.label_set("roi")
            assert info(store)["unsettled"] == "labels/roi"
    order = [state for i, state in enumerate(states) if state not in states[:i]]
    assert order == ["old", "none", "new"]
    assert states == sorted(states, key=order.index)


def test_the_same_command_completes_it(cuts, tmp_path):
    change, _, whole, _ = cuts
    for i, store in enumerate(copies(cuts, tmp_path)):
        if i == 0 or (store / JOURNAL).exists():
            change(store)
        tidy(locate(store))
        assert read_files(store) == whole


def test_any_other_that_writes_completes_it(cuts, tmp_path):
    _, new, whole, _ = cuts
    for store in copies(cuts, tmp_path)[1::4]:  # before the first, there is no journal
        write_counts(store)
        assert not (store / JOURNAL).exists()
        np.testing.assert_array_equal(read_voxels(store, "labels/roi/0/roi"), new)
        left = read_files(store)
        assert {k: v for k, v in left.items() if "labels/" in k} == {
            k: v for k, v in whole.items() if "labels/" in k
        }


def test_verify_names_it_and_repair_completes_it(cuts, tmp_path):
    _, _, whole, _ = cuts
    for i, store in enumerate(copies(cuts, tmp_path)[::3]):
        pending = (store / JOURNAL).exists()
        found = verify(store)
        assert ((JOURNAL, "unfinished") in kinds(found)) is pending
        assert found["whole"] is not pending
        assert found["unknown"] == []
        # Before there is a journal, what lies aside is nothing that anybody needs.
        assert any(key.startswith(STAGED) for key in found["left_over"]) is (i == 0)
        mended = verify(store, repair=True)
        assert mended["whole"]
        assert mended["left_over"] == []
        assert (mended["mended"] != []) is pending
        assert i == 0 or read_files(store) == whole


def kinds(found):
    return [(problem["key"], problem["what"]) for problem in found["problems"]]


def test_cut_off_while_it_is_completed(cuts, tmp_path):
    change, _, whole, _ = cuts
    middle = len(cuts[3]) // 2
    for i in range(0, 30, 3):
        store = Path(shutil.copytree(cuts[3][middle], tmp_path / str(i)))
        again = Dying(store, i)
        again._begun = True
        with pytest.raises(PowerCut):
            change(Store(again))
        change(store)
        assert read_files(store) == whole


def test_a_damaged_journal_is_named(cuts, tmp_path):
    store = copies(cuts, tmp_path)[2]
    (store / JOURNAL).write_bytes((store / JOURNAL).read_bytes()[:-9])
    with pytest.raises(DataError, match=r"journal.json is damaged.*remove that file"):
        write_counts(store)
    for repair in (False, True):
        assert kinds(verify(store, repair=repair)) == [(JOURNAL, "damaged")]


@pytest.mark.parametrize("key", ["thc/plan.json", "thc/receipts/image/0/0.0.0.json"])
def test_what_a_conversion_left_is_swept_up(before, tmp_path, key):
    store = Path(shutil.copytree(before, tmp_path / "v.ome.zarr"))
    whole = read_files(store)
    for sweep in (
        lambda: verify(store, repair=True),
        lambda: write_counts(store),
        lambda: convert(source(IMAGE), store, resume=True, **SMALL),
    ):
        (store / key).parent.mkdir(parents=True, exist_ok=True)
        (store / key).write_text("{}")
        found = verify(store)
        assert (found["whole"], found["left_over"], found["unknown"]) == (True, [key], [])
        sweep()
        assert read_files(store) == whole


def test_another_writer_without_a_lock_is_noticed(before):
    url = "memory://two/v.ome.zarr"
    files = locate(url)
    for key, data in read_files(before).items():
        files.put(key, data)

    class Slow:
        """Labels that take so long to open that another process comes first."""

        def __init__(self, reader, first):
            self._reader, self._first = reader, first

        def __getattr__(self, name):
            self()
            return getattr(self._reader, name)

        def __call__(self, *_):
            first, self._first = self._first, lambda: None
            first()

    from thc_dask.sources import open_reader

    reader = open_reader(source(NEW), None, None)
    for name, options in {
        "more": {"name": "more", "scheme": SCHEME},
        "roi": {"into": "roi", "planes": [1]},
    }.items():
        other = f"other-{name}"

        def first(other=other):
            write_labels(source(OLD), url, other, SCHEME)

        with pytest.raises(WriteError, match="another process has changed the store meanwhile"):
            write_labels(Slow(reader, first), url, **options)
        assert sorted(Store(url).label_sets) == sorted({"roi", "other-more", other})
        np.testing.assert_array_equal(read_voxels(url, "labels/roi/0/roi"), OLD * known(0, 3))
        assert verify(url)["whole"]

    def other_set():
        write_labels(source(OLD), url, "later", SCHEME)

    with pytest.raises(WriteError, match="another process has changed the store meanwhile"):
        write_counts(url, other, progress=Slow(None, other_set))
    assert "later" in Store(url).label_sets
    assert verify(url)["problems"] == []


def test_two_writers_refuse_one_another(before, tmp_path):
    store = Path(shutil.copytree(before, tmp_path / "v.ome.zarr"))
    whole = read_files(store)
    with (
        locate(store).lock(),
        pytest.raises(RequestError, match="being written by another process"),
    ):
        write_counts(store)
    assert read_files(store) == whole
