"""Tables to files: long, whole or not at all, and never over something else."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from thc_dask.errors import ExistsError, RequestError, WriteError, writing
from thc_dask.output import SUFFIXES, as_json, check_target, long_table, write_table

RNG = np.random.default_rng(4)
NAMES = ["none", "a,b", 'c"d', "ü"]  # what a CSV has to quote


@pytest.fixture
def counts():
    attrs = {"store": "s", "digests": {"roi": "1f"}, "level": np.int64(0), "software": "x"}
    coords = {
        "region": np.array(NAMES, object),
        "intensity": np.arange(5),
        "code": ("region", [0, 1, 2, 7]),
    }
    values = RNG.integers(0, 2**40, (4, 5))
    return xr.DataArray(values, coords, ("region", "intensity"), "count", attrs)


@pytest.fixture
def dataset(counts):
    shares = counts / 2**40
    shares[1] = np.nan
    return xr.Dataset({"fraction": shares, "n_vox": counts.sum("intensity")}, attrs=counts.attrs)


def read(path):
    """Return the values of a table's file by dims and names."""
    if path.suffix in (".csv", ".parquet", ".json"):
        if path.suffix == ".csv":
            frame = pd.read_csv(path, keep_default_na=False, na_values=[""])
        elif path.suffix == ".parquet":
            frame = pd.read_parquet(path)
        else:
            frame = pd.DataFrame(json.loads(path.read_text(encoding="utf-8"))["rows"])
        return frame.set_index(list(frame.columns[:2])).to_xarray()
    with xr.open_dataset(path, engine={".nc": "h5netcdf", ".zarr": "zarr"}[path.suffix]) as found:
        return found.load()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_again(counts, tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write_table(counts, path)
    found = read(path)["count"].sel(region=NAMES)
    assert found.dims == counts.dims
    assert found.dtype == np.int64
    np.testing.assert_array_equal(found.values, counts.values)
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_not_known_stays_so(dataset, tmp_path, suffix):
    write_table(dataset, tmp_path / f"table{suffix}")
    found = read(tmp_path / f"table{suffix}")
    np.testing.assert_allclose(
        found["fraction"].sel(region=NAMES).values.astype(float),
        dataset["fraction"].values,
        atol=1e-10,
    )
    assert ("n_vox" in found) == (suffix in (".nc", ".zarr"))


def test_a_frame_knows_where_it_comes_from(tmp_path):
    table = xr.DataArray([[1, 2]], {"region": ["CTX"], "intensity": [0, 1]}, name="count")
    table.attrs = {"store": "v.ome.zarr", "seed": np.int64(7), "digests": {"roi": "ab"}}
    write_table(table, tmp_path / "t.parquet")
    kept = pd.read_parquet(tmp_path / "t.parquet").attrs
    assert kept == {"store": "v.ome.zarr", "seed": 7, "digests": {"roi": "ab"}}


@pytest.mark.parametrize("suffix", [".json", ".nc", ".zarr"])
def test_where_it_comes_from_is_kept(counts, tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write_table(counts, path)
    if suffix == ".json":
        assert json.loads(path.read_text())["attrs"] == counts.attrs
    else:
        attrs = read(path).attrs
        assert (attrs["store"], json.loads(attrs["digests"])) == ("s", {"roi": "1f"})


def test_lazy_tables_are_computed(counts, tmp_path):
    write_table(counts.chunk({"region": 2}), tmp_path / "t.csv")
    np.testing.assert_array_equal(read(tmp_path / "t.csv")["count"].sel(region=NAMES), counts)


def test_csv_has_one_row_a_value(counts, tmp_path):
    write_table(counts, tmp_path / "T.CSV")
    lines = (tmp_path / "T.CSV").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "region,intensity,count"
    assert lines[6] == f'"a,b",0,{int(counts[1, 0])}'
    assert len(lines) == 1 + 4 * 5


def test_json_is_of_the_standard(dataset):
    def refuse(constant):
        raise AssertionError(constant)

    text = as_json(dataset)
    assert json.loads(text, parse_constant=refuse)["rows"][5]["fraction"] is None


def test_json_has_numbers_to_the_last_digit_and_infinity_as_text():
    values = [2.357e-12, 1 / 3, -np.inf, np.inf, np.nan]
    table = xr.DataArray(values, {"pair": list("abcde")}, name="p", attrs={"smoothing": np.inf})
    found = json.loads(as_json(table))
    assert [row["p"] for row in found["rows"]] == [*values[:2], "-Infinity", "Infinity", None]
    assert [float(row["p"]) for row in found["rows"][2:4]] == [-np.inf, np.inf]
    assert found["attrs"] == {"smoothing": "Infinity"}


def test_long_tables_leave_out_what_lacks_a_dim(dataset):
    frame = long_table(dataset)
    assert list(frame.columns) == ["region", "intensity", "fraction"]
    assert frame["region"].tolist() == list(np.repeat(NAMES, 5))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_table_is_replaced(counts, tmp_path, suffix):
    path = tmp_path / f"table{suffix}"
    write_table(counts, path)
    write_table(counts + 1, path)
    np.testing.assert_array_equal(read(path)["count"].sel(region=NAMES), counts.values + 1)


def test_nothing_but_tables_is_replaced(counts, tmp_path):
    volume = tmp_path / "volume.zarr"
    counts.to_dataset().drop_attrs().to_zarr(volume, zarr_format=2)
    before = sorted(volume.rglob("*"))
    (tmp_path / "folder.csv").mkdir()
    (tmp_path / "empty.zarr").mkdir()
    (tmp_path / "odd.zarr").mkdir()
    (tmp_path / "odd.zarr/.zattrs").write_text("[")
    for name in ("volume.zarr", "folder.csv", "empty.zarr", "odd.zarr"):
        with pytest.raises(ExistsError, match=f"{name}: a folder of that name holds something"):
            write_table(counts, tmp_path / name)
    assert sorted(volume.rglob("*")) == before


@pytest.mark.parametrize("name", ["t.xlsx", "t", ".csv", "t.csv.gz"])
def test_unknown_suffix(name):
    with pytest.raises(RequestError, match=r"unknown format; use one of \.csv \.parquet \.json"):
        check_target(name)


def test_folders_are_made(counts, tmp_path):
    write_table(counts, tmp_path / "a/b/t.json")
    assert (tmp_path / "a/b/t.json").is_file()


def check_what_was_there_stays(counts, path, monkeypatch, fail, said):
    write_table(counts, path)
    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(WriteError, match=said):
        write_table(counts + 1, path)
    monkeypatch.undo()
    np.testing.assert_array_equal(read(path)["count"].sel(region=NAMES), counts.values)
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_fails_leaves_what_was_there(counts, tmp_path, suffix, monkeypatch):
    def fail(*names):
        raise OSError(28, "No space left on device")

    said = r"cannot write .*table.* the disk is full; free space"
    check_what_was_there_stays(counts, tmp_path / f"table{suffix}", monkeypatch, fail, said)


def test_a_folder_stays_until_the_new_one_has_its_name(counts, tmp_path, monkeypatch):
    path, replace = tmp_path / "table.zarr", os.replace

    def fail(source, target):
        if Path(target) == path and Path(source).name == path.name:
            raise OSError(28, "No space left on device")
        replace(source, target)

    check_what_was_there_stays(counts, path, monkeypatch, fail, r"cannot write .*table")


@pytest.mark.parametrize(("suffix", "package"), [(".parquet", "pyarrow"), (".nc", "h5netcdf")])
def test_a_missing_package_is_named(counts, tmp_path, monkeypatch, suffix, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(RequestError, match=rf'{package}.*pip install "thc_dask\[formats\]"'):
        write_table(counts, tmp_path / f"t{suffix}")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (OSError(28, "No space left on device"), "the disk is full; free space, then run it again"),
        (OSError(30, "Read-only file system"), "the file system is read-only; choose another"),
        (OSError(13, "Permission denied"), "no permission to write there; choose another target"),
        (OSError("Unable to create (errno = 28,\n buf = 0)"), "the disk is full; free space"),
        (OSError("65536 requested and 12080 written"), "the disk is full; free space"),
        (OSError(5, "Input/output error"), "Input/output error"),
        (OSError("two\nlines"), "two lines"),
    ],
)
def test_one_line_says_why_nothing_can_be_written(error, reason):
    with pytest.raises(WriteError) as raised, writing("t.csv"):
        raise error
    assert str(raised.value).startswith(f"cannot write t.csv: {reason}")
    assert "\n" not in str(raised.value)
