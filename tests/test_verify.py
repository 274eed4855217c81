"""Any damage to any file is found, named and mended to the very bytes."""

import json
import shutil
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.assertions import new_store
from tests.damager import damage, files_of, make_store
from tests.strategies import extents, label_arrays, schemes, source, volumes
from thc_dask import cli, convert, open_volume, verify
from thc_dask.convert import write_store
from thc_dask.errors import DataError, MissingError, RequestError
from thc_dask.grid import Extent, Grid, blocks
from thc_dask.labels import write_labels
from thc_dask.sources import open_source
from thc_dask.store import metadata, witness
from thc_dask.store.books import digest
from thc_dask.store.column import Column
from thc_dask.store.halving import MeanOfVoxels
from thc_dask.store.layout import make_levels
from thc_dask.store.read import Store
from thc_dask.store.root import node_bytes, sealed
from thc_dask.store.shards import Codec
from thc_dask.store.target import Target


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A store with everything in it: image, two label sets, tables."""
    return make_store(tmp_path_factory.mktemp("verify") / "volume.ome.zarr")


@pytest.fixture
def store(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / "volume.ome.zarr"))


def test_a_whole_store_is_whole(store):
    found = verify(store)
    assert found["whole"]
    assert found["problems"] == found["unknown"] == found["mended"] == []
    # All but the root, its copy, the lock, and the lists of receipts themselves.
    lists = [key for key in files_of(store) if key.endswith(".jsonl")]
    assert found["n_files"] == len(files_of(store)) - 2 - len(lists)


def test_progress_counts_files_and_bytes(store):
    class Watching:
        def __init__(self):
            self.seen = []

        def watch(self, standing):
            self.seen.append(standing)

    watching = Watching()
    verify(store, progress=watching)
    lists = [store / key for key in files_of(store) if key.endswith(".jsonl")]
    lines = [json.loads(line) for path in lists for line in path.read_text().splitlines()]
    last = watching.seen[-1]
    assert last.done == last.total == len(watching.seen) == len(lines)
    assert last.read_bytes == sum(line["n_bytes"] for line in lines)


def groups_of(keys):
    """Return every file once, in groups that do not speak for one another."""
    books = [key for key in keys if key.endswith(".jsonl")]
    rest = [key for key in keys if key not in {"zarr.json", "thc/root.json", *books}]
    return [["zarr.json"], ["thc/root.json"], books, rest]


@pytest.mark.parametrize("seed", range(8))
def test_any_damage_to_any_file_is_found_and_named(store, seed):
    rng = np.random.default_rng(seed)
    for group in groups_of(files_of(store)):
        before = {key: (store / key).read_bytes() for key in group}
        for key in group:
            damage(
                store / key, str(rng.choice(["missing", "truncated", "flipped", "flipped"])), rng
            )
        found = verify(store, spot_checks=0 if seed else 8)
        assert not found["whole"]
        assert sorted(problem["key"] for problem in found["problems"]) == group
        for key, data in before.items():
            (store / key).write_bytes(data)
    assert verify(store, spot_checks=0)["whole"]


@pytest.mark.parametrize("seed", range(6))
def test_any_damage_is_mended_to_the_same_bytes(store, seed):
    rng = np.random.default_rng(seed)
    before = {k: (store / k).read_bytes() for k in files_of(store)}
    one, copy, books, rest = groups_of(files_of(store))
    keys = sorted({*rng.choice(rest, 12), *(one if seed % 2 else copy)})
    times = {k: (store / k).stat().st_mtime_ns for k in before}
    keys = books if seed == 0 else keys
    for key in keys:
        damage(store / key, str(rng.choice(["missing", "truncated", "flipped"])), rng)
    mended = verify(store, repair=True, spot_checks=1)
    assert mended["whole"]
    assert mended["mended"] == keys
    assert {k: (store / k).read_bytes() for k in files_of(store)} == before
    # What was whole was not touched; of tables both are made anew.
    touched = {k for k in before if (store / k).stat().st_mtime_ns != times[k]}
    assert {k for k in touched if "/c/" in k and "counts" not in k} <= set(keys)


def reseal(store, change, thorough=()):
    """Change a store's root as a program would that mends the checksums too."""
    root = json.loads((store / "zarr.json").read_bytes())
    change(root)
    nodes = root["consolidated_metadata"]["metadata"]
    for path in nodes:
        if path in thorough or not thorough:
            (store / path / "zarr.json").write_bytes(node_bytes(nodes, path))
    for key in ("thc/root.json", "zarr.json"):
        (store / key).write_bytes(sealed(root))


def change_node(path, key, value):
    def change(root):
        root["consolidated_metadata"]["metadata"][path][key] = value

    return change


def change_layout(key, value):
    def change(root):
        root["attributes"]["thc"]["layout"][key] = value

    return change


def follow_the_layout(root):
    """Rewrite all that follows from the layout: what is left is what the shards say."""
    layout = root["attributes"]["thc"]["layout"]
    layout["shape"] = [70, 90, 149]
    grid = Grid((70, 90, 149), tuple(layout["spacing_um"]), tuple(layout["origin_um"]))
    levels = make_levels(grid, 4, tuple(layout["chunk"]), tuple(layout["shard"]))
    nodes = root["consolidated_metadata"]["metadata"]
    for prefix, name in (("", "image"), ("labels/roi/", "roi"), ("labels/ms/", "ms")):
        for level in levels:
            for axis, short in enumerate("zyx"):
                path = f"{prefix}{level.index}/{short}"
                nodes[path] = metadata.coordinate_array(level.grid, axis)[0]
            nodes[f"{prefix}{level.index}/{name}"]["shape"] = list(level.grid.shape)
            shard = list(level.shard)
            node = nodes[f"{prefix}{level.index}/{name}"]
            node["chunk_grid"]["configuration"]["chunk_shape"] = shard


def change_multiscales(root):
    first = root["attributes"]["ome"]["multiscales"][0]["datasets"][1]
    first["coordinateTransformations"][0]["scale"][2] *= 2


def change_colors(root):
    node = root["consolidated_metadata"]["metadata"]["labels/roi"]
    node["attributes"]["ome"]["image-label"]["colors"][1]["rgba"] = [1, 2, 3, 255]


RESEALED = [
    (change_node("0/image", "shape", [70, 90, 149]), "0/image/zarr.json", "shape"),
    (change_node("2/image", "data_type", "uint16"), "2/image/zarr.json", "data_type"),
    (change_node("0/image", "data_type", "uint16"), "0/image/c/0/0/0", "does not hold 8192"),
    (change_node("labels/roi/1/roi", "data_type", "uint16"), "labels/roi/1/roi/zarr.json", "type"),
    (change_node("1/image", "dimension_names", ["x", "y", "z"]), "1/image/zarr.json", "names"),
    (change_node("0/z", "shape", [71]), "0/z/zarr.json", "shape"),
    (change_multiscales, "zarr.json", "multiscales"),
    (change_colors, "labels/roi/zarr.json", "image-label"),
    (change_layout("spacing_um", [1.17, 1.17, 1.18]), "0/x/c/0", ""),
    (change_layout("origin_um", [0.0, 1.0, 0.0]), "3/y/c/0", ""),
    (change_layout("shape", [70, 90, 152]), "0/image/zarr.json", "shape"),
    (change_layout("shape", [70, 26, 150]), "0/image/c/0/1/0", "outside the volume"),
    (change_layout("chunk", [16, 16, 32]), "0/image/c/0/0/0", "an index of 32 chunks"),
    (follow_the_layout, "0/image/c/0/1/2", "beyond the volume"),
]


@pytest.mark.parametrize(("change", "key", "why"), RESEALED)
def test_metadata_that_contradict_the_arrays_though_checksums_fit(store, change, key, why):
    reseal(store, change)
    found = verify(store, spot_checks=1)
    assert not found["whole"]
    named = {p["key"]: p for p in found["problems"]}
    assert why in named[key]["why"]
    assert named[key]["what"] == ("wrong" if why else "damaged")
    before = {k: (store / k).read_bytes() for k in ("zarr.json", "thc/root.json")}
    assert not verify(store, repair=True, spot_checks=1)["whole"]
    assert before == {k: (store / k).read_bytes() for k in before}


@pytest.mark.parametrize(
    "change",
    [
        lambda root: root["attributes"]["thc"]["layout"].pop("chunk"),
        lambda root: root["attributes"]["thc"].update(codec="lz77"),
        lambda root: root["consolidated_metadata"]["metadata"].pop("0/image"),
        change_node("0/image", "data_type", "complex9"),
        change_layout("levels", 5),
        change_layout("levels", "many"),
    ],
)
def test_metadata_that_make_no_sense(store, change):
    reseal(store, change)
    with pytest.raises(DataError, match=r"zarr.json: its metadata cannot be understood"):
        verify(store)


class Lower:
    """Halve by taking the smallest: a writer that is wrong."""

    def halve(self, src, dst, level, start):
        starts = [(a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)]
        padded = np.pad(src, [(0, n % 2) for n in src.shape], mode="edge")
        dst[...] = np.min([padded[a::2, b::2, c::2] for a, b, c in starts], axis=0)


@pytest.mark.parametrize("name", [None, "roi", "ms"])
@pytest.mark.parametrize("level", [1, 2, 3])
def test_what_was_written_wrong_is_found_though_receipts_agree(store, name, level):
    opened = Store(store)
    fine = opened.levels[level - 1]
    prefix = f"labels/{name}/" if name else ""
    name = name or "image"
    below = opened.array(f"{prefix}{level - 1}/{name}", level - 1)
    dtype = below.dtype
    target = Target(opened.location, prefix, name, dtype, Codec(), MeanOfVoxels())
    voxels = np.empty(fine.grid.shape, dtype)
    below.read_into(voxels, (0, 0, 0))
    coarse = np.empty(opened.levels[level].grid.shape, dtype)
    Lower().halve(voxels, coarse, level, (0, 0, 0))
    if name != "image":
        coarse = np.where(coarse == 0, 1, 0).astype(dtype) * (coarse != 0)
    rewrite(store, opened, target, level, coarse)
    assert verify(store, spot_checks=0)["whole"]
    found = verify(store, spot_checks=2)
    assert not found["whole"]
    how = "mean" if name == "image" else "mode"
    first = found["problems"][0]
    assert first["key"].startswith(f"{prefix}{level}/{name}/c/")
    assert f"are not the {how} of level {level - 1}" in first["why"]
    assert not verify(store, repair=True, spot_checks=2)["whole"]


@pytest.mark.parametrize("name", [None, "roi"])
def test_one_wrong_voxel_at_the_far_corner(store, name):
    opened = Store(store)
    prefix, own = (f"labels/{name}/", name) if name else ("", "image")
    array = opened.array(f"{prefix}1/{own}", 1)
    target = Target(opened.location, prefix, own, array.dtype, Codec(), MeanOfVoxels())
    voxels = np.empty(array.shape, array.dtype)
    array.read_into(voxels, (0, 0, 0))
    voxels[-1, -1, -1] ^= 1
    rewrite(store, opened, target, 1, voxels)
    assert verify(store, spot_checks=0)["whole"]
    last = "/".join(str((n - 1) // s) for n, s in zip(array.shape, array.shard, strict=True))
    why = {p["key"]: p["why"] for p in verify(store, spot_checks=1)["problems"]}
    assert why[f"{prefix}1/{own}/c/{last}"].startswith("1 voxels in ")


def rewrite(store, opened, target, k, voxels):
    """Write other voxels of a level, with receipts and digests that fit."""
    level = opened.levels[k]
    path = target.path(level)
    for key in opened.location.keys(f"{path}/c"):
        opened.location.delete(key)
    for box in blocks(level.grid.shape, level.shard):
        column = Column(target, (level,), box)
        for z in range(0, box.shape[0], level.chunk[0]):
            part = Extent(
                (box.start[0] + z, *box.start[1:]),
                (min(box.start[0] + z + level.chunk[0], box.stop[0]), *box.stop[1:]),
            )
            column.add_layer(np.ascontiguousarray(voxels[part.slices]), z)
        column.finish()
        column.commit()
    opened.location.delete(f"thc/receipts/{target.prefix}{target.name}")
    keys = [key for each in opened.levels for key in opened.location.keys(f"{target.path(each)}/c")]
    receipts = [witness.take_stock(opened, opened.location, key) for key in keys]
    book = next(b for b in witness.books(opened) if b.key.endswith(f"/{target.name}.jsonl"))
    (store / book.key).write_text("".join(sorted(f"{json.dumps(r)}\n" for r in receipts)))
    new = digest(receipts, book.meaning)

    def change(root):
        node = (
            root
            if not target.prefix
            else root["consolidated_metadata"]["metadata"][target.prefix.rstrip("/")]
        )
        node["attributes"]["thc"]["digest"] = new

    reseal(store, change)


@settings(max_examples=25)
@given(st.data())
def test_what_we_write_is_never_called_wrong(data):
    volume = data.draw(volumes())
    scheme = data.draw(schemes())
    store = new_store()
    convert(volume.source, store, **volume.options)
    known = data.draw(st.lists(extents(volume.array.shape), min_size=1, max_size=4))
    truth = data.draw(label_arrays(volume.array.shape, scheme))
    write_labels(source(truth), store, "roi", scheme, extents=known)
    found = verify(store, spot_checks=data.draw(st.integers(1, 9)), seed=data.draw(st.integers(0)))
    assert found["problems"] == []


def test_a_shard_of_any_size_passes_through_little_memory(tmp_path):
    voxels = np.random.default_rng(0).integers(0, 256, (256, 256, 512), np.uint8)
    store = tmp_path / "v.ome.zarr"
    write_store(source(voxels), store, levels=1, shard=(256, 256, 512))
    opened = Store(store)
    tracemalloc.start()
    try:
        assert list(witness.problems(opened)) == []
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (store / "0/image/c/0/0/0").stat().st_size > 32 * 2**20
    assert peak < 8 * 2**20


@pytest.mark.parametrize("level", range(4))
def test_several_shards_at_once(store, level):
    before = {k: (store / k).read_bytes() for k in files_of(store)}
    rng = np.random.default_rng(level)
    keys = [k for k in before if k.startswith((f"{level}/image/c/", f"labels/roi/{level}/roi/c/"))]
    for key in keys:
        damage(store / key, "flipped", rng)
    assert {p["key"] for p in verify(store, spot_checks=1)["problems"]} == set(keys)
    assert verify(store, repair=True, spot_checks=1)["whole"]
    assert {k: (store / k).read_bytes() for k in files_of(store)} == before


def test_coarse_levels_need_no_source(tmp_path):
    array = open_source("phantom:40,50,60")
    store = tmp_path / "v.ome.zarr"
    convert(array.assign_attrs(provenance=None), store, levels=3, chunk=(8, 8, 8))
    broken = store / "1/image/c/0/0/0"
    data = broken.read_bytes()
    broken.write_bytes(data[:-1])
    assert verify(store, repair=True)["mended"] == ["1/image/c/0/0/0"]
    assert broken.read_bytes() == data


def test_the_finest_level_needs_its_source(tmp_path):
    array = open_source("phantom:40,50,60").assign_attrs(provenance=None)
    store = tmp_path / "v.ome.zarr"
    convert(array, store, levels=3, chunk=(8, 8, 8))
    broken = store / "0/image/c/0/0/0"
    data = broken.read_bytes()
    broken.unlink()
    with pytest.raises(RequestError, match="was 'array' in memory"):
        verify(store, repair=True)
    with pytest.raises(RequestError, match=r"its .* was"):
        verify(store, repair=True, source="phantom:40,50,60?seed=7")
    assert verify(store, repair=True, source=array)["whole"]
    assert broken.read_bytes() == data


@pytest.fixture
def from_a_relative_path(tmp_path, monkeypatch):
    """A store with a shard gone, seen from another folder than it was made in."""
    for name in ("made", "other"):
        (tmp_path / name).mkdir()
    monkeypatch.chdir(tmp_path / "made")
    np.save("a.npy", np.arange(8 * 20 * 30, dtype=np.uint16).reshape(8, 20, 30))
    convert("a.npy", "../v.ome.zarr", spacing="1um", levels=1, chunk=(8, 8, 8), flip="y")
    (tmp_path / "v.ome.zarr/0/image/c/0/0/0").unlink()
    monkeypatch.chdir(tmp_path / "other")
    return tmp_path / "v.ome.zarr"


def test_a_source_that_is_not_there_is_named_as_it_is_recorded(from_a_relative_path):
    store = from_a_relative_path
    message = "source a.npy does not exist; the store was made from a.npy, a path from the folder"
    with pytest.raises(MissingError, match=f"^{message} .*: give --source with where that is now$"):
        verify(store, repair=True)
    np.save("a.npy", np.zeros((8, 20, 30), np.uint16))
    message = r"source a.npy \(a path from the folder that the conversion ran in\): its fingerprint"
    with pytest.raises(RequestError, match=message):
        verify(store, repair=True)
    assert verify(store, repair=True, source="../made/a.npy")["whole"]


def test_an_absolute_source_that_is_not_there_is_no_path_from_a_folder(tmp_path):
    source, store = tmp_path / "a.npy", tmp_path / "v.ome.zarr"
    np.save(source, np.ones((8, 20, 30), np.uint16))
    convert(source, store, spacing="1um", levels=1, chunk=(8, 8, 8))
    (store / "0/image/c/0/0/0").unlink()
    source.unlink()
    with pytest.raises(MissingError, match=f"was made from {source}: give --source"):
        verify(store, repair=True)


def test_a_file_of_somebody_else_is_named_and_left(store):
    (store / "0" / "notes.txt").write_text("mine")
    found = verify(store, repair=True)
    assert found["whole"]
    assert found["unknown"] == ["0/notes.txt"]
    assert (store / "0" / "notes.txt").read_text() == "mine"


def test_what_is_left_over_comes_with_its_remedy(store, capsys):
    assert cli.run(["verify", str(store)]) == 0
    assert "--repair" not in capsys.readouterr().out
    begun = store / "thc" / "receipts" / "labels" / "new" / "new" / "begun"
    begun.parent.mkdir(parents=True)
    begun.touch()
    assert cli.run(["verify", str(store), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["left_over"] == [begun.relative_to(store).as_posix()]
    assert cli.run(["verify", str(store)]) == 0
    assert capsys.readouterr().out.endswith("removes it, or thc verify --repair\n")
    assert cli.run(["verify", str(store), "--repair"]) == 0
    assert not begun.exists()


def test_both_roots_damaged_is_beyond_repair(store):
    for key in ("zarr.json", "thc/root.json"):
        (store / key).write_bytes((store / key).read_bytes().replace(b"micrometer", b"micromotor"))
    with pytest.raises(DataError, match="both damaged; convert again"):
        verify(store, repair=True)


def test_an_opened_volume_verifies_too(store):
    assert verify(open_volume(store))["whole"]
    with pytest.raises(RequestError, match="is not a volume"):
        verify(3)
