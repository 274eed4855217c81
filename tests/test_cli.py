"""The command line: help that works, one JSON document, tables by suffix, progress, exit codes."""

import argparse
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import tifffile
import xarray as xr

import thc_dask as thc
from thc_dask import cli
from thc_dask.cli import commands
from thc_dask.cli.arguments import build_parser
from thc_dask.output import long_table
from thc_dask.sources import NAMED

SHAPE = (40, 64, 96)
SPACING = ("--spacing", "1.17um")
THC = [sys.executable, "-m", "thc_dask"]


[GROUP] = [a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)]
COMMANDS = list(GROUP.choices)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """An image and two label sets as TIFF stacks."""
    top, rng = tmp_path_factory.mktemp("inputs"), np.random.default_rng(5)
    for name, n in (("image", 256), ("roi", 9), ("microstructure", 4)):
        voxels = rng.integers(0, n, SHAPE, np.uint8)
        tifffile.imwrite(top / f"{name}.tif", voxels, photometric="minisblack")
    return top


@pytest.fixture(scope="module")
def store(inputs):
    """A store with both label sets and all tables, made by the commands alone."""
    path = inputs / "volume.ome.zarr"
    for line in (
        f"convert {inputs}/image.tif {path} --spacing 1.17um --chunk 16 --shard 32 --levels 3",
        f"labels {inputs}/roi.tif {path} --name roi --scheme prasad2020-roi --planes 9,10,30",
        f"labels {inputs}/microstructure.tif {path} --name microstructure "
        "--scheme prasad2020-microstructure",
        f"count {path}",
    ):
        assert cli.run(line.split()) == 0, line
    return path


@pytest.fixture
def run(capsys):
    """Return a function that runs a command, which must succeed, and gives what it prints."""

    def run(*arguments):
        capsys.readouterr()
        assert cli.run([str(a) for a in arguments]) == 0
        return capsys.readouterr()

    return run


def document(text):
    """Return the one JSON document that a text is, by the letter of the standard."""

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


# ---- help ---------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_examples_that_parse(command, capsys):
    with pytest.raises(SystemExit) as end:
        cli.run([command, "--help"])
    text = capsys.readouterr().out
    assert end.value.code == 0
    examples = [line.strip() for line in text.splitlines() if line.startswith(f"  thc {command}")]
    assert examples
    for example in examples:
        arguments = build_parser().parse_args(shlex.split(example)[1:])
        assert arguments.command == command
        assert callable(getattr(commands, command))


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command):
    parser = GROUP.choices[command]
    assert "--json" in parser.format_usage()
    unexplained = [a.option_strings for a in parser._actions if a.option_strings and not a.help]
    assert unexplained == []


def test_help_names_every_command(capsys):
    with pytest.raises(SystemExit):
        cli.run(["--help"])
    shown = re.findall(r"^    (\w+)(?: +\S|\n {10,}\S)", capsys.readouterr().out, re.MULTILINE)
    assert shown == COMMANDS


def test_help_names_every_kind_of_source(capsys):
    with pytest.raises(SystemExit):
        cli.run(["convert", "--help"])
    assert f" SOURCE {NAMED} " in " ".join(capsys.readouterr().out.split())


def test_version_and_module():
    done = subprocess.run([*THC, "--version"], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == (f"thc_dask {thc.__version__}\n", "")


def test_console_script(store, tmp_path):
    script = shutil.which("thc", path=Path(sys.executable).parent)
    assert script is not None, "the package is not installed"
    for arguments, code in (
        (["info", store], 0),
        (["info", tmp_path / "nowhere"], 2),
        (["infos"], 2),
        (["count", damaged(store, tmp_path)], 1),
    ):
        done = subprocess.run([script, *map(str, arguments)], capture_output=True, text=True)
        assert done.returncode == code
        assert done.stderr.count("\n") == (code != 0)


def damaged(store, folder):
    copy = shutil.copytree(store, folder / "damaged.ome.zarr")
    for shard in copy.glob("0/image/c/*/*/*"):
        shard.write_bytes(shard.read_bytes()[:-1])
    shutil.rmtree(copy / "thc/receipts/counts")  # or there would be nothing to count
    return copy


@pytest.mark.parametrize("command", ["histogram", "info"])  # more than a buffer, and less
def test_a_reader_that_leaves_is_no_error(store, command):
    with subprocess.Popen(
        [*THC, command, str(store), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": ""},  # what waits in a buffer fails last
    ) as running:
        running.stdout.close()
        assert (running.stderr.read(), running.wait()) == (b"", 0)


# ---- JSON ---------------------------------------------------------------------------------


QUICK = {
    "summary": ("--resamples", "20"),
    "compare": ("--resamples", "20", "--permutations", "20"),
}
DRAWS = {
    "summary": {"n_resamples": 20},
    "compare": {"n_resamples": 20, "n_permutations": 20},
    "fractions": {},
}


def test_json_of_questions(run, store):
    for command, value, rows in (
        ("histogram", "count", 9 * 256),
        ("fractions", "fraction", 9 * 4),
        ("compare", "value", 8 * 8 * 8),
        ("summary", "value", 9 * 8),
    ):
        out, err = run(command, store, "--json", *QUICK.get(command, ()))
        found = document(out)
        assert (sorted(found), len(found["rows"]), err) == (["attrs", "rows"], rows, "")
        assert value in found["rows"][0]
        assert found["attrs"]["store"] == str(store)
        assert found["attrs"]["answered_from"] == "plane table"
        assert found["attrs"]["box_vox"] == "0:40,0:64,0:96"


def test_json_of_makers(run, inputs, tmp_path):
    made = tmp_path / "volume.ome.zarr"
    labels = (inputs / "roi.tif", made, "--name", "roi", "--scheme", "prasad2020-roi")
    for arguments, key, value in (
        (("phantom", tmp_path / "phantom", "--shape", "4,16,32"), "shape", [4, 16, 32]),
        (("convert", inputs / "image.tif", made, *SPACING), "shape", [40, 64, 96]),
        (("labels", *labels), "n_known_vox", 40 * 64 * 96),
        (("count", made), "tables", {"roi": "up to date"}),
        (("info", made), "shape", [40, 64, 96]),
        (("figures", made, "-o", tmp_path), "figures", [f"{tmp_path}/{f}.png" for f in PANELS]),
        (("report", made, "-o", tmp_path / "r.html"), "report", f"{tmp_path}/r.html"),
    ):
        out, err = run(*arguments, "--json")
        assert document(out)[key] == value
        told = [document(line)["progress"] for line in lines(err)]
        assert {found["command"] for found in told} <= {arguments[0]}
        assert bool(told) == (arguments[0] in ("phantom", "convert", "labels", "count"))


PANELS = ("a_roi", "b", "d")


CUBES = [thc.Extent((0, 0, 0), (40, 30, 96)), thc.Extent((0, 30, 0), (40, 64, 96))]


def test_options_reach_their_function(run, store, tmp_path):
    box = ("--box", "0:40,10:50,10:70")
    inside = thc.Box((0, 10, 10), (40, 50, 70))
    for arguments, table in (
        (
            ("fractions", "--confidence", "0.5", "--resamples", "99", "--seed", "7", *box),
            thc.fractions(store, box=inside, confidence=0.5, n_resamples=99, seed=7),
        ),
        (
            ("fractions", "--denominator", "foreground", "--block", "2"),
            thc.fractions(store, denominator="foreground", block=2),
        ),
        (
            ("summary", "--denominator", "unclipped", "--seed", "2", *QUICK["summary"]),
            thc.summary(store, denominator="unclipped", seed=2, n_resamples=20),
        ),
        (
            ("fractions", "--cubes", "0:40,0:30,0:96", "--cubes", "0:40,30:64,0:96"),
            thc.fractions(store, cubes=CUBES),
        ),
        (
            ("compare", "--smoothing", "0.5", *QUICK["compare"], *box),
            thc.compare(store, box=inside, smoothing=0.5, **DRAWS["compare"]),
        ),
        (
            ("compare", "--of", "microstructure", "--measures", "js,cohen_h", *QUICK["compare"]),
            thc.compare(store, of="microstructure", measures=["js", "cohen_h"], **DRAWS["compare"]),
        ),
        (
            ("compare", "--by", "microstructure", "--cubes", "auto", *QUICK["compare"]),
            thc.compare(store, by="microstructure", cubes="auto", **DRAWS["compare"]),
        ),
        (("histogram", "--by", "microstructure"), thc.histogram(store, by="microstructure")),
    ):
        command, *options = arguments
        run(command, store, *options, "-o", tmp_path / "t.nc")
        with xr.open_dataset(tmp_path / "t.nc", engine="h5netcdf") as found:
            values = table.to_dataset() if isinstance(table, xr.DataArray) else table
            for name, wanted in values.compute().items():
                np.testing.assert_array_equal(found[name].values, wanted.values)


def test_options_reach_the_figures(run, store, tmp_path):
    options = ("--by", "microstructure", "--box", "0:40,10:50,10:70", "--format", "svg")
    made = document(run("figures", store, "-o", tmp_path / "a", *options, "--json").out)["figures"]
    box = thc.Box((0, 10, 10), (40, 50, 70))
    wanted = thc.figures(store, tmp_path / "b", by="microstructure", box=box, suffix=".svg")
    assert [Path(path).name for path in made] == ["a_microstructure.svg", "b.svg", "d.svg"]
    for path, same in zip(made, wanted, strict=True):
        assert Path(path).read_bytes() == same.read_bytes()


def test_phantom_of_another_seed(run, tmp_path):
    for seed in (0, 5):
        run("phantom", tmp_path / str(seed), "--shape", "2,16,32", "--seed", seed)
        found = tifffile.imread(sorted((tmp_path / str(seed) / "image").iterdir()))
        source = thc.open_source(f"phantom:2,16,32?seed={seed}")
        np.testing.assert_array_equal(found, source.values)


# ---- tables by suffix ---------------------------------------------------------------------


def read_long(path):
    """Return a table file as its reader's own library gives it, long."""
    if path.suffix == ".csv":
        return pd.read_csv(path, keep_default_na=False, na_values=[""])
    if path.suffix == ".parquet":
        return pd.read_parquet(path)
    return pd.DataFrame(document(path.read_text())["rows"])


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json"])
def test_a_long_table_reads_back_equal(run, store, tmp_path, suffix):
    path = tmp_path / f"h{suffix}"
    out, err = run("histogram", store, "-o", path)
    assert (out, err) == (f"written: {path}\nanswered_from: plane table\n", "")
    counts = thc.histogram(store)
    found = read_long(path)
    assert list(found.columns) == ["region", "intensity", "count"]
    assert found["region"].tolist() == np.repeat(counts.region.values, 256).tolist()
    assert found["intensity"].tolist() == list(range(256)) * 9
    assert found["count"].dtype == np.int64
    assert found["count"].tolist() == counts.values.ravel().tolist()
    assert int(found["count"].sum()) == 3 * 64 * 96


@pytest.mark.parametrize("suffix", [".nc", ".zarr"])
def test_an_array_table_reads_back_equal(run, store, tmp_path, suffix):
    path = tmp_path / f"h{suffix}"
    run("histogram", store, "-o", path)
    counts = thc.histogram(store)
    engine = "h5netcdf" if suffix == ".nc" else "zarr"
    with xr.open_dataset(path, engine=engine) as found:
        np.testing.assert_array_equal(found["count"].values, counts.values)
        assert found["count"].dims == ("region", "intensity")
        assert found["region"].values.tolist() == counts.region.values.tolist()
        assert found["color"].values.tolist() == counts.color.values.tolist()
        assert found.attrs["store"] == str(store)
        assert json.loads(found.attrs["digests"]) == counts.attrs["digests"]


@pytest.mark.parametrize("command", ["fractions", "compare", "summary"])
def test_other_tables_read_back_equal(run, store, tmp_path, command):
    table, options = getattr(thc, command)(store, **DRAWS[command]), QUICK.get(command, ())
    long = long_table(table)
    for suffix in (".csv", ".parquet", ".json"):
        run(command, store, "-o", tmp_path / f"t{suffix}", *options)
        found = read_long(tmp_path / f"t{suffix}")
        assert list(found.columns) == list(long.columns)
        for name, values in long.items():
            if not pd.api.types.is_numeric_dtype(
                values
            ):  # an empty text and none are the same in a file
                assert found[name].astype(object).fillna("").tolist() == values.tolist()
                continue
            np.testing.assert_allclose(
                found[name].to_numpy(np.float64), values, rtol=1e-9, atol=1e-10
            )
    run(command, store, "-o", tmp_path / "t.nc", *options)
    with xr.open_dataset(tmp_path / "t.nc", engine="h5netcdf") as found:
        for name, values in table.items():
            np.testing.assert_array_equal(found[name].values, values.values)


def test_a_table_replaces_a_table(run, store, tmp_path):
    for suffix in (".csv", ".zarr"):
        path = tmp_path / f"h{suffix}"
        run("histogram", store, "-o", path, "--by", "microstructure")
        run("histogram", store, "-o", path)
        if suffix == ".zarr":
            with xr.open_zarr(path) as found:
                assert sorted(found.sizes) == ["intensity", "region"]
        else:
            assert read_long(path).columns[0] == "region"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["h.csv", "h.zarr"]


def test_a_box_on_the_command_line(run, store, tmp_path):
    """Below zero and open ends too; the box is half-open on voxel centres."""
    run("histogram", store, "--box", "-5:10.6,0:20.0,:", "-o", tmp_path / "h.csv")
    # Centres at 1.17 um: planes 0 to 9, of which 9 is known; rows 0 to 17; all columns.
    assert int(read_long(tmp_path / "h.csv")["count"].sum()) == 1 * 18 * 96


def test_a_table_on_the_terminal(run, store):
    out, _ = run("fractions", store)
    lines = out.splitlines()
    assert lines[0].split()[:3] == ["region", "structure", "fraction"]
    assert len(lines) == 1 + 9 * 4 + 2
    assert lines[-2].startswith("answered_from: ")
    assert lines[-1] == "denominator: all known voxels of the region, background included"


def test_old_tables_are_said_on_the_terminal(run, store, inputs, tmp_path):
    copy = shutil.copytree(store, tmp_path / "copy.ome.zarr")
    run("count", copy)
    out, _ = run("fractions", copy, "--resamples", "50")
    assert "answered_from: plane table" in out.splitlines()
    run("labels", inputs / "roi.tif", copy, "--into", "roi", "--planes", "20")
    out, _ = run("fractions", copy, "--resamples", "50")
    why = "voxels, because the tables are of other voxels; thc count makes them"
    assert f"answered_from: {why}" in out.splitlines()


def test_what_numbers_do_not_show_is_said(run, store, tmp_path):
    box = ("--box", "0:3,0:40,0:40")
    out, _ = run("histogram", store, "--aligned", *box)
    said = next(line for line in out.splitlines() if line.startswith("aligned: asked for "))
    out, _ = run("histogram", store, "--aligned", *box, "-o", tmp_path / "h.csv")
    assert said in out.splitlines()
    corner = ("--box", "0:3,0:3,0:3")
    run("histogram", store, *corner, "-o", tmp_path / "h.csv")
    totals = read_long(tmp_path / "h.csv").groupby("region", sort=False)["count"].sum()
    empty = ", ".join(totals.index[totals == 0])
    assert empty
    out, _ = run("histogram", store, *corner)
    assert out.splitlines()[-1] == f"no_known_voxels: {empty}"
    run("histogram", store, *corner, "-o", tmp_path / "h.json")
    said = json.loads((tmp_path / "h.json").read_text())["attrs"]["no_known_voxels"]
    assert ", ".join(said) == empty
    run("histogram", store, *corner, "-o", tmp_path / "h.parquet")
    assert pd.read_parquet(tmp_path / "h.parquet").attrs["no_known_voxels"] == said
    for suffix, engine in ((".nc", "h5netcdf"), (".zarr", "zarr")):
        run("histogram", store, *corner, "-o", tmp_path / f"h{suffix}")
        with xr.open_dataset(tmp_path / f"h{suffix}", engine=engine) as found:
            assert list(np.atleast_1d(found.attrs["no_known_voxels"])) == said


# ---- what is printed besides --------------------------------------------------------------


def test_dry_run_writes_nothing(run, inputs, tmp_path):
    made, layout = tmp_path / "volume.ome.zarr", ("--chunk", "16", "--shard", "32", "--levels", "3")
    arguments = ("convert", inputs / "image.tif", made, *SPACING, *layout)
    planned = document(run(*arguments, "--dry-run", "--json").out)
    out, err = run(*arguments, "--dry-run")
    assert err == ""
    shown = [" ".join(line.split()) for line in lines(out)]
    assert "read 246 kB of uint8, once" in shown
    assert "0 40 x 64 x 96 1.17, 1.17, 1.17 16 x 16 x 16 32 x 32 x 32 12" in shown
    assert len({len(line) for line in lines(out)[-4:]}) == 1, "columns are not aligned"
    assert list(tmp_path.iterdir()) == []
    done = document(run(*arguments, "--json").out)
    looked = ("free_bytes", "estimate")  # which only a dry run does
    assert {k: v for k, v in planned.items() if k not in looked} == {
        k: done[k] for k in planned if k not in looked
    }
    # Noise does not compress.
    assert planned["estimate"]["write_bytes"] == pytest.approx(done["written_bytes"], rel=0.05)
    assert done["n_files"] == planned["n_files"] == sum(p.is_file() for p in made.rglob("*"))
    assert done["n_vox"] == 40 * 64 * 96
    assert done["vox_per_s"] == pytest.approx(done["n_vox"] / done["seconds"])
    assert done["written_bytes"] == sum(p.stat().st_size for p in made.glob("*/image/c/*/*/*"))
    assert planned["n_levels"] == 3
    assert (
        planned["buffers"]["slab_bytes"] + planned["buffers"]["shard_bytes"]
        == (planned["memory_bytes"])
    )
    assert planned["n_shards"] == sum(
        level["n_shards"] for level in document(run("info", made, "--json").out)["levels"]
    )
    assert planned["read_bytes"] == 40 * 64 * 96


def test_dry_run_says_what_it_takes_to_decode_large_units(run, tmp_path):
    voxels = np.random.default_rng(0).integers(0, 2**16, (1500, 4096), np.uint16)
    tifffile.imwrite(tmp_path / "v.tif", voxels, compression="zlib", rowsperstrip=1500)
    arguments = ("convert", tmp_path / "v.tif", tmp_path / "v.zarr", *SPACING, "--dry-run")
    out, err = run(*arguments)
    assert re.search(
        r"memory .* shards, .*B to decode the source in units of 1 x 1,500 x 4,096", out
    )
    assert err == ""
    _, err = run(*arguments, "--memory", "8MiB")
    [line] = lines(err)
    assert re.search(r"warning: memory: .* 1 x 1500 x 4096 voxels.*; give --memory \d+MiB", line)


SMALL = ("--chunk", "16", "--shard", "16")


def test_progress_is_plain_lines_where_nobody_looks(run, inputs, tmp_path):
    made = tmp_path / "volume.ome.zarr"
    out, err = run("convert", inputs / "image.tif", made, *SPACING, *SMALL)
    assert re.fullmatch(
        rf"{made}: 40 x 64 x 96 voxels, 1 levels; \d+ kB in 84 files, \d+ s, [\d.]+ \wvoxels/s\n",
        out,
    )
    shares = [int(re.match(r"convert: +(\d+)%  .*voxels/s", x)[1]) for x in lines(err)]
    assert shares == sorted(set(shares))
    assert shares[-1] == 100
    assert 3 <= len(shares) <= 10
    assert "\r" not in err


def lines(text):
    return text.splitlines()


def test_progress_is_a_bar_on_a_terminal(inputs, tmp_path):
    ours, theirs = os.openpty()
    command = ["convert", inputs / "image.tif", tmp_path / "v", *SPACING, *SMALL]
    with subprocess.Popen(
        [*THC, *map(str, command)], stdout=subprocess.PIPE, stderr=theirs
    ) as running:
        os.close(theirs)
        shown = b""
        while part := read_terminal(ours):
            shown += part
        assert (running.wait(), running.stdout.read().count(b"\n")) == (0, 1)
    os.close(ours)
    drawn = shown.decode().replace("\r\n", "\n")
    assert drawn.startswith("\rconvert: ")
    assert drawn.endswith("\n")
    assert re.search(r"100%.* B? ?written.*\[#{10,30}\]$", drawn.rstrip())
    assert max(len(part) for part in drawn.split("\r")) <= 80
    assert drawn.count("\n") == 1


def read_terminal(fd):
    try:
        return os.read(fd, 4096)
    except OSError:  # the other end is closed
        return b""


def test_info_for_people(run, store):
    shown = run("info", store).out
    assert f"store: {store}" in lines(shown)
    assert "spacing_um: 1.17, 1.17, 1.17" in lines(shown)
    assert "normalisation: none" in lines(shown)
    for name in ("roi", "microstructure", "microstructure_by_roi"):
        assert f"  {name}: up to date" in lines(shown)


def test_labels_of_a_box_then_of_another(run, inputs, tmp_path):
    made, source = tmp_path / "volume.ome.zarr", inputs / "roi.tif"
    run("convert", inputs / "image.tif", made, *SPACING)
    scheme = ("--name", "roi", "--scheme", "prasad2020-roi")
    run("labels", source, made, *scheme, "--extent", "0:2,0:8,0:9", "--extent", "5:6,0:8,0:9")
    found = document(run("labels", source, made, "--into", "roi", "--planes", "7", "--json").out)
    assert found["extents"] == ["0:2,0:8,0:9", "5:6,0:8,0:9", "7:8,0:64,0:96"]
    assert found["n_known_vox"] == 3 * 8 * 9 + 64 * 96
    assert int(thc.histogram(made).sum()) == 3 * 8 * 9 + 64 * 96
