"""Local maps: every cell from its own voxels, kept in the store as images that others open."""

import json
import sys

import numpy as np
import pytest
import tensorstore
import xarray as xr
import yaozarrs
import zarr

from tests.assertions import known_mask, raise_if_computes
from tests.strategies import source
from thc_dask import count, info, labels, maps, verify
from thc_dask.cli import run
from thc_dask.convert import write_store
from thc_dask.errors import MissingError, RequestError
from thc_dask.grid import Extent
from thc_dask.schemes import Label, Scheme
from thc_dask.store.read import Store

SHAPE, UM, ORIGIN = (20, 18, 30), (2.0, 1.0, 0.5), (5.0, 0.0, 1.0)
REGIONS = Scheme("r", "region", (Label(0, "none"), Label(3, "A"), Label(7, "B b")))
STRUCTURES = Scheme("s", "structure", (Label(0, "background"), Label(2, "cell"), Label(5, "axon")))
KNOWN = [Extent((3, 0, 0), (4, 18, 30)), Extent((9, 2, 4), (12, 18, 17))]

RNG = np.random.default_rng(6)
IMAGE = RNG.integers(0, 256, SHAPE, np.uint8)
ROI = RNG.choice([0, 3, 7], SHAPE).astype(np.uint8)
MICRO = RNG.choice(STRUCTURES.codes, SHAPE).astype(np.uint8)
MASK = known_mask(SHAPE, KNOWN)


@pytest.fixture(params=["tables", "voxels"])
def store(request, tmp_path):
    path = str(tmp_path / "v.ome.zarr")
    write_store(source(IMAGE, UM, ORIGIN), path, chunk=(8, 8, 8), shard=(16, 16, 16))
    labels(source(ROI), path, "roi", REGIONS)
    labels(source(MICRO), path, "microstructure", STRUCTURES, extents=KNOWN)
    if request.param == "tables":
        count(path)
    return path


def by_cell(size, of, mask):
    """Return the mean of ``of`` over the voxels of the mask in each cell, and how many they are."""
    shape = tuple(-(-n // s) for n, s in zip(SHAPE, size, strict=True))
    mean, n = np.full(shape, np.nan), np.zeros(shape, int)
    for place in np.ndindex(*shape):
        where = tuple(slice(p * s, (p + 1) * s) for p, s in zip(place, size, strict=True))
        values = of[where][mask[where]]
        n[place] = len(values)
        if len(values):
            mean[place] = values.mean()
    return mean.astype(np.float32), n


@pytest.mark.parametrize(("cell_um", "size"), [(None, (8, 8, 8)), (4.1, (2, 4, 8))])
@pytest.mark.parametrize("denominator", ["known", "foreground", "unclipped"])
def test_fractions_of_every_cell(store, cell_um, size, denominator):
    found = maps(store, cell_um=cell_um, denominator=denominator).compute()
    mask = MASK
    if denominator == "foreground":
        mask = mask & (MICRO > 0)
    if denominator == "unclipped":
        mask = mask & (IMAGE > 0) & (IMAGE < 255)
    for name, code in (("cell", 2), ("axon", 5)):
        mean, n = by_cell(size, code == MICRO, mask)
        np.testing.assert_allclose(found[f"microstructure_{name}"], mean, rtol=1e-6)
        np.testing.assert_array_equal(found["n_vox"], n)
    assert ("microstructure_background" in found) == (denominator != "foreground")
    assert found["microstructure_cell"].dtype == np.float32
    for axis, (t, p, s) in enumerate(zip(ORIGIN, UM, size, strict=True)):
        centres = t + p * (s - 1) / 2 + p * s * np.arange(found.sizes["zyx"[axis]])
        np.testing.assert_allclose(found["zyx"[axis]], centres)


@pytest.mark.parametrize("cell_um", [None, 4.1])
@pytest.mark.parametrize("denominator", ["known", "unclipped"])
def test_inside_one_region(store, cell_um, denominator):
    size = (8, 8, 8) if cell_um is None else (2, 4, 8)
    options = {"by": "roi", "region": "B b", "cell_um": cell_um, "denominator": denominator}
    inside = (ROI == 7) & ((IMAGE > 0) & (IMAGE < 255) if denominator == "unclipped" else True)
    found = maps(store, **options).compute()
    mean, n = by_cell(size, MICRO == 5, MASK & inside)
    np.testing.assert_allclose(found["microstructure_axon_B_b"], mean, rtol=1e-6)
    np.testing.assert_array_equal(found["n_vox"], n)
    found = maps(store, "image", **options).compute()
    mean, n = by_cell(size, IMAGE, inside)
    np.testing.assert_allclose(found["image_mean_B_b"], mean, rtol=1e-6)
    np.testing.assert_array_equal(found["n_vox"], n)


@pytest.mark.parametrize("cell_um", [None, 4.1])
def test_the_image_whatever_is_labelled(store, cell_um):
    size = (8, 8, 8) if cell_um is None else (2, 4, 8)
    found = maps(store, "image", cell_um=cell_um).compute()
    mean, n = by_cell(size, IMAGE, np.ones(SHAPE, bool))
    np.testing.assert_allclose(found["image_mean"], mean, rtol=1e-6)
    np.testing.assert_array_equal(found["n_vox"], n)
    assert "by" not in found.attrs
    found = maps(store, "image", by="microstructure", cell_um=cell_um).compute()
    mean, n = by_cell(size, IMAGE, MASK)
    np.testing.assert_allclose(found["image_mean"], mean, rtol=1e-6)
    np.testing.assert_array_equal(found["n_vox"], n)


def test_tables_answer_where_cells_are_whole_chunks(store):
    counted = "counts" in Store(store).nodes
    with raise_if_computes():
        made = [maps(store), maps(store, cell_um=16), maps(store, cell_um=4.1)]
    # 16 um are 8, 16 and 32 voxels: whole chunks too
    assert [m.attrs["answered_from"] == "chunk table" for m in made] == [counted, counted, False]
    assert [m["n_vox"].chunks is None for m in made] == [counted, counted, False]


def test_a_map_is_kept_as_an_image(store):
    made = maps(store, cell_um=4.1, keep=True)
    yaozarrs.validate_zarr_store(store)
    group = zarr.open_group(store, mode="r", use_consolidated=False)["maps/microstructure_cell"]
    scale, translation = (
        t[k] for t, k in zip(
            group.attrs["ome"]["multiscales"][0]["datasets"][0]["coordinateTransformations"],
            ("scale", "translation"), strict=True,
        )
    )  # fmt: skip
    assert scale == [4.0, 4.0, 4.0]
    assert translation == [6.0, 1.5, 2.75]
    np.testing.assert_array_equal(group["0/microstructure_cell"][...], made["microstructure_cell"])
    level = xr.open_zarr(store, group="maps/microstructure_cell/0")
    xr.testing.assert_equal(level["microstructure_cell"].compute(), made["microstructure_cell"])
    spec = {"driver": "zarr3", "kvstore": {
        "driver": "file", "path": f"{store}/maps/microstructure_axon/0/microstructure_axon"
    }}  # fmt: skip
    opened = tensorstore.open(spec, read=True).result()
    np.testing.assert_array_equal(opened.read().result(), made["microstructure_axon"])
    record = group.attrs["thc"]
    assert (record["of"], record["level"], record["cell_um"]) == ("microstructure", 0, [4.0] * 3)
    assert record["denominator"] == "all known voxels of the region"


def test_a_kept_map_is_proved_and_known_to_be_stale(store, tmp_path):
    maps(store, keep=True)
    assert verify(store)["whole"]
    assert set(info(store)["maps"]) == {
        f"microstructure_{n}" for n in ("background", "cell", "axon")
    }
    assert set(info(store)["maps"].values()) == {"up to date"}
    file = next((tmp_path / "v.ome.zarr/maps/microstructure_cell/0").rglob("c/0/0/0"))
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    [problem] = verify(store)["problems"]
    assert problem["key"] == "maps/microstructure_cell/0/microstructure_cell/c/0/0/0"
    file.write_bytes(whole)
    labels(source(ROI // 7 * 2), store, into="microstructure", planes=[19])
    assert set(info(store)["maps"].values()) == {"stale: thc maps makes it anew"}
    maps(store, keep=True)
    assert set(info(store)["maps"].values()) == {"up to date"}
    assert verify(store)["whole"]


def test_the_command(store, capsys):
    assert run(["maps", store, "--cell", "4.1", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["maps"] == [f"maps/microstructure_{n}" for n in ("background", "cell", "axon")]
    assert "maps/microstructure_axon" in Store(store).nodes
    out = f"{store}.nc"
    asked = ["--of", "image", "--region", "A", "--by", "roi"]
    assert run(["maps", store, *asked, "-o", out]) == 0
    with xr.open_dataset(out, engine="h5netcdf") as read:
        wanted = maps(store, "image", by="roi", region="A").compute()
        np.testing.assert_array_equal(read["image_mean_A"], wanted["image_mean_A"])
    assert "maps/image_mean_A" not in Store(store).nodes


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"of": "micro"}, MissingError, "no label set 'micro'; it has: microstructure, roi"),
        ({"by": "roi", "region": "C"}, MissingError, "no region 'C'; it has: none, A, B b"),
        ({"region": "A"}, RequestError, "give --by, the label set it is of"),
        ({"of": "roi", "by": "roi"}, RequestError, "both are label sets of regions"),
        ({"cell_um": 1.5}, RequestError, "cell 1.5 um: a voxel is 2 um"),
        ({"of": "image", "denominator": "foreground"}, RequestError, "one of known, unclipped"),
    ],
)
def test_questions_that_make_no_sense(store, options, error, says):
    with pytest.raises(error, match=says):
        maps(store, **options)


def test_too_many_cells_say_how_large_they_must_be(store, monkeypatch):
    monkeypatch.setattr(sys.modules["thc_dask.maps"], "MOST_NUMBERS", 20_000)
    with pytest.raises(RequestError, match=r"would not fit into memory; give at least \d+ um"):
        maps(store, cell_um=2)
