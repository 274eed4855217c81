"""Every bad input: one line that names it and says what to do, and nothing valid-looking left."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
import tifffile
import xarray as xr

from thc_dask import cli, convert, labels, open_source, open_volume
from thc_dask.errors import RequestError, ThcError

SHAPE = (20, 40, 50)
RNG = np.random.default_rng(2)
ROI = ("--scheme", "prasad2020-roi")
STRUCTURES = ("--name", "structures", "--scheme", "prasad2020-microstructure")
PROGRESS = re.compile(
    r"(phantom|convert|labels|count): +\d+%  \S+ [kMG]?(planes|voxels|shards)/s"
    r"(  \S+ [kMG]?B (read|written))*(  \d[\w ]* left)?"
)


def save(path, array, photometric="minisblack"):
    path.parent.mkdir(parents=True, exist_ok=True)
    tifffile.imwrite(path, array, photometric=photometric)
    return path


def make(*arguments):
    assert cli.run([str(a) for a in arguments]) == 0


@pytest.fixture(scope="module")
def inputs(tmp_path_factory):
    """A folder of slices, and labels that fit them."""
    top = tmp_path_factory.mktemp("inputs")
    for z in range(SHAPE[0]):
        save(top / f"slices/z{z:02}.tif", RNG.integers(1, 256, SHAPE[1:], np.uint8))
    save(top / "labels.tif", RNG.integers(0, 4, SHAPE, np.uint8))
    return top


@pytest.fixture(scope="module")
def ready(inputs):
    """A store with a label set; whoever changes it takes a copy."""
    store = inputs / "ready.ome.zarr"
    make("convert", inputs / "slices", store, "--spacing", "1.17um")
    make("labels", inputs / "labels.tif", store, "--name", "roi", "--scheme", "prasad2020-roi")
    return store


@pytest.fixture
def copy(ready, tmp_path):
    return shutil.copytree(ready, tmp_path / "copy.ome.zarr")


def files(folder):
    """Return the bytes of every file by name."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file()
    }


def said(command, err):
    """Return the one line of an error; above it may stand nothing but progress and warnings."""
    *above, line = err.splitlines()
    warning = f"thc {command}: warning: "
    assert all(PROGRESS.fullmatch(other) or other.startswith(warning) for other in above), err
    assert line.startswith(f"thc {command}: ")
    assert "Traceback" not in err
    return line


@pytest.fixture
def run(capsys):
    """Return a function that runs a command and gives its exit code and what it prints."""

    def run(*arguments):
        capsys.readouterr()
        try:
            code = cli.run([str(a) for a in arguments])
        except SystemExit as end:  # a wrong option ends the program at once
            code = end.code
        return code, *capsys.readouterr()

    return run


@pytest.fixture
def fails(run):
    """Return a function that runs a command, which must fail, and gives its line."""

    def fails(code, *arguments):
        found, out, err = run(*arguments)
        line = said(arguments[0], err)
        assert (found, out) == (code, ""), line
        if code == 2:
            assert err.count("\n") == 1
        return line

    return fails


def assert_no_store(path):
    assert not (path / "zarr.json").exists()
    with pytest.raises(ThcError):
        open_volume(path)


# ---- sources ------------------------------------------------------------------------------


@pytest.fixture
def refuses(fails, tmp_path):
    """Return a function that converts a source, which must fail before anything is written."""

    def run(code, source, *options):
        store = tmp_path / "made.ome.zarr"
        line = fails(code, "convert", source, store, *(options or ("--spacing", "1um")))
        assert not store.exists()
        return line

    return run


def test_missing_file(refuses, tmp_path):
    line = refuses(2, tmp_path / "nowhere.tif")
    assert f"source {tmp_path}/nowhere.tif does not exist; give a TIFF, PNG" in line


OBJECTS = [
    np.zeros((2, 3, 4)),
    da.zeros((2, 3, 4)),
    xr.Dataset(),
    xr.Variable("z", [1]),
    b"a.tif",
    None,
    5,
]


@pytest.mark.parametrize("given", OBJECTS, ids=lambda given: type(given).__name__)
def test_objects_that_are_no_sources(copy, tmp_path, given):
    says = (
        r"^source: \S+ is no source; give an xarray\.DataArray with .* micrometers, or the name of"
    )
    for make_of in (
        open_source,
        lambda source: convert(source, tmp_path / "v.ome.zarr"),
        lambda source: labels(source, copy, "more", "prasad2020-roi"),
    ):
        with pytest.raises(RequestError, match=says) as caught:
            make_of(given)
        assert type(given).__name__ in str(caught.value)
    assert not (tmp_path / "v.ome.zarr").exists()


def test_source_without_a_name(refuses):
    assert "the name is empty; give a TIFF" in refuses(2, "")


def test_empty_folder(refuses, tmp_path):
    (tmp_path / "empty").mkdir()
    line = refuses(2, tmp_path / "empty")
    assert line.endswith(
        f"no files .tif, .tiff, .png, .jp2, .j2k in {tmp_path}/empty; give the folder with them"
    )


def test_slices_of_different_shape(refuses, inputs, tmp_path):
    folder = shutil.copytree(inputs / "slices", tmp_path / "slices")
    save(folder / "z07.tif", np.ones((40, 51), np.uint8))
    line = refuses(2, folder)
    assert (
        f"{folder}/z07.tif is uint8 (40, 51) (y, x), but {folder}/z00.tif is uint8 (40, 50)" in line
    )
    assert line.endswith("all planes need one shape and type")


def test_slices_of_different_type(refuses, inputs, tmp_path):
    folder = shutil.copytree(inputs / "slices", tmp_path / "slices")
    save(folder / "z19.tif", np.ones((40, 50), np.uint16))
    line = refuses(2, folder)
    assert f"{folder}/z19.tif is uint16 (40, 50)" in line
    assert line.endswith("all planes need one shape and type")


@pytest.mark.parametrize("share", [0.02, 0.5, 0.99])
def test_truncated_tiff(refuses, inputs, tmp_path, share):
    folder = shutil.copytree(inputs / "slices", tmp_path / "slices")
    whole = (folder / "z03.tif").read_bytes()
    (folder / "z03.tif").write_bytes(whole[: int(len(whole) * share)])
    assert f"slices: {folder}/z03.tif is " in refuses(1, folder)


def test_damage_that_only_reading_finds(fails, inputs, tmp_path):
    """The headers are whole, a strip is not: the conversion began, and must not look finished."""
    folder = shutil.copytree(inputs / "slices", tmp_path / "slices")
    path = folder / "z03.tif"
    tifffile.imwrite(path, np.arange(2000, dtype=np.uint8).reshape(40, 50), compression="zlib")
    with tifffile.TiffFile(path) as tif:
        offset = tif.pages[0].dataoffsets[0]
    data = bytearray(path.read_bytes())
    data[offset : offset + 40] = bytes(40)
    path.write_bytes(data)
    store = tmp_path / "made.ome.zarr"
    line = fails(1, "convert", folder, store, "--spacing", "1um")
    assert f"{path} cannot be decoded, it is damaged" in line
    assert_no_store(store)


@pytest.mark.parametrize(
    ("data", "why"),
    [(b"", "is empty (0 bytes); copy it again"), (b"GIF89a" * 9, "not a TIFF file")],
)
def test_no_tiff_at_all(refuses, tmp_path, data, why):
    (tmp_path / "odd.tif").write_bytes(data)
    line = refuses(1, tmp_path / "odd.tif")
    assert f"{tmp_path}/odd.tif is" in line
    assert why in line


def test_rgb_image(refuses, tmp_path):
    path = save(tmp_path / "photo.tif", np.zeros((4, 5, 3), np.uint8), photometric="rgb")
    line = refuses(2, path)
    assert f"{path} is a colour or multi-channel image (Y=4 X=5 S=3); convert it to grey" in line


@pytest.mark.parametrize(
    ("spacing", "why"),
    [
        ("1.17", "'1.17' has no unit; write it like 1.17um"),
        ("1.17parsec", "unknown unit 'parsec'; known: nm, um"),
        ("0um", "must be above 0"),
        ("1um,2um", "give one length, or three as z,y,x"),
        ("wide", "'wide' is not a length; write it like 1.17um"),
    ],
)
def test_spacing(refuses, inputs, spacing, why):
    line = refuses(2, inputs / "slices", "--spacing", spacing)
    assert f"spacing '{spacing}'" in line
    assert why in line


def test_spacing_that_nobody_gave(refuses, inputs):
    line = refuses(2, inputs / "slices", "--levels", "1")
    assert f"no voxel size in {inputs}/slices/z00.tif; give it as --spacing 1.17um" in line


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--chunk", "63"), "the chunk must be even"),
        (("--chunk", "64", "--shard", "100"), "such as a chunk of 64 and a shard of 256"),
        (("--chunk", "64,64"), "give whole numbers of at least 1 as z,y,x"),
        (("--levels", "99"), "levels 99: give 1 to 24"),
        (("--levels", "many"), "'many' is not a whole number"),
        (("--codec", "lz4"), "codec 'lz4': give zstd, or zstd:LEVEL"),
        (("--memory", "5"), "memory '5': give at least 1MiB"),
        (("--memory", "1e999GB"), "write it like 2GiB or 500MB"),
        (("--window", "0:255"), "the source is 8 bit already; leave --window out"),
        (("--window", "wide"), "the source is 8 bit already; leave --window out"),
        (("--order", "xyy"), "xyy"),
        (("--flip", "q"), "q"),
        (("--crop", "900:950,0:9,0:9"), "holds no voxel centre of the volume"),
        (("--colour", "red"), "unknown: --colour red; thc convert --help shows how"),
    ],
)
def test_options(refuses, inputs, options, why):
    assert why in refuses(2, inputs / "slices", "--spacing", "1um", *options)


def test_no_command_and_no_such_command(capsys):
    for arguments in ([], ["convrt"]):
        with pytest.raises(SystemExit) as end:
            cli.run(arguments)
        line = capsys.readouterr().err
        assert end.value.code == 2
        assert line.count("\n") == 1
        assert line.endswith("; thc --help shows how\n")


# ---- labels -------------------------------------------------------------------------------


@pytest.fixture
def refuses_labels(fails, ready):
    """Return a function that brings labels in, which must fail and change nothing."""

    def run(code, source, *options):
        before = files(ready)
        line = fails(code, "labels", source, ready, *(options or STRUCTURES))
        assert files(ready) == before
        return line

    return run


def test_labels_of_another_shape(refuses_labels, tmp_path):
    path = save(tmp_path / "small.tif", np.ones((20, 39, 50), np.uint8))
    line = refuses_labels(2, path)
    assert f"labels {path}: shape (20, 39, 50) does not fit the volume {SHAPE} (z,y,x)" in line
    assert line.endswith("give --offset z,y,x, or --planes")


def test_labels_that_leave_the_volume(refuses_labels, inputs):
    line = refuses_labels(2, inputs / "labels.tif", *STRUCTURES, "--offset", "1,0,0")
    assert f"does not fit the volume {SHAPE} (z,y,x) at offset (1, 0, 0)" in line


@pytest.mark.parametrize("odd", [4, 77])
def test_labels_outside_the_scheme(refuses_labels, tmp_path, odd):
    codes = np.ones(SHAPE, np.uint8)
    codes[3, 4, 5] = odd
    path = save(tmp_path / "odd.tif", codes)
    line = refuses_labels(2, path)
    assert f"labels {path}: code {odd} at voxel z=3 y=4 x=5 is not in scheme" in line
    assert line.endswith("(codes 0, 1, 2, 3); choose another --scheme")


def test_labels_below_zero(refuses_labels, tmp_path):
    path = save(tmp_path / "signed.tif", np.full(SHAPE, -1, np.int16))
    assert f"labels {path}: code -1 at voxel z=0 y=0 x=0" in refuses_labels(2, path)


def test_labels_outside_the_scheme_replace_nothing(refuses_labels, tmp_path):
    path = save(tmp_path / "odd.tif", np.full(SHAPE, 9, np.uint8))
    options = ("--name", "roi", "--scheme", "prasad2020-roi", "--overwrite")
    assert "code 9 at voxel z=0 y=0 x=0" in refuses_labels(2, path, *options)


def test_float_labels(refuses_labels, tmp_path):
    path = save(tmp_path / "float.tif", np.ones(SHAPE, np.float32))
    line = refuses_labels(2, path)
    assert f"labels {path}: voxels are float32; labels are whole numbers" in line


def test_unknown_scheme(refuses_labels, inputs):
    options = ("--name", "x", "--scheme", "allen")
    line = refuses_labels(2, inputs / "labels.tif", *options)
    assert "scheme 'allen' is not known and no such file exists; known: prasad2020-roi, " in line


def test_scheme_file_that_is_none(refuses_labels, inputs, tmp_path):
    (tmp_path / "scheme.csv").write_text("number,area\n1,CTX\n")
    options = ("--name", "x", "--scheme", str(tmp_path / "scheme.csv"))
    line = refuses_labels(1, inputs / "labels.tif", *options)
    assert f"scheme file {tmp_path}/scheme.csv" in line
    assert "needs CSV columns code,name" in line


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (("--scheme", "x"), "scheme 'x' is not known and no such file exists"),
        (("--name", "../x", *ROI), "label set name '../x': letters, digits"),
        (("--name", "x"), "say what the codes mean with --scheme"),
        (("--into", "roj"), "has no label set 'roj'; it has: roi"),
        (("--into", "roi"), "a part of it is known already; nothing was changed"),
        (ROI, "give --overwrite to replace it, or, to add planes, thc labels --into roi"),
        ((*STRUCTURES, "--planes", "3,20"), "planes [3, 20]: the volume has planes 0 to 19"),
        ((*STRUCTURES, "--planes", "3,3"), "planes [3, 3]: one is named twice"),
        ((*STRUCTURES, "--planes", "all"), "planes 'all': give whole numbers: 109,159,209"),
        ((*STRUCTURES, "--extent", "0:1,0:41,0:1"), "0:1,0:41,0:1 reaches outside"),
        ((*STRUCTURES, "--extent", "3:1,0:9,0:9"), "along z give 0 <= start < stop, in voxels"),
    ],
)  # fmt: skip
def test_label_options(refuses_labels, inputs, options, why):
    assert why in refuses_labels(2, inputs / "labels.tif", *options)


# ---- boxes, names, stores -----------------------------------------------------------------

QUESTIONS = ("histogram", "fractions", "summary", "compare", "figures", "report")


@pytest.mark.parametrize("command", ["histogram", "summary", "compare", "figures", "report"])
def test_box_outside_the_volume(fails, ready, tmp_path, command):
    out = tmp_path / "out.csv"
    line = fails(2, command, ready, "--box", "100:200,0:9,0:9", "-o", out)
    assert "box 100:200,0:9,0:9 um holds no voxel centre of the volume" in line
    assert "the volume spans 0:22.23,0:45.63,0:57.33 um" in line
    assert not out.is_file()


@pytest.mark.parametrize("box", ["5:1,0:9,0:9", "0:9,5:5,0:9"])
def test_box_upside_down(fails, ready, box):
    line = fails(2, "histogram", ready, "--box", box)
    assert f"box {box}: along " in line
    assert line.endswith("give start:stop with start below stop")


@pytest.mark.parametrize(
    ("box", "how"),
    [
        ("5:1", "write it as z0:z1,y0:y1,x0:x1"),
        ("0:1,0:1,0:x", "give numbers, in micrometers: 0:150,0:150,0:150"),
        ("0:1,0:1,0:nan", "give numbers, in micrometers: 0:150,0:150,0:150"),
    ],
)
def test_box_that_is_none(fails, ready, box, how):
    line = fails(2, "histogram", ready, "--box", box)
    assert f"box '{box}': {how}" in line


@pytest.mark.parametrize(
    ("command", "option"),
    [
        ("histogram", "--by"), ("summary", "--by"), ("compare", "--by"), ("fractions", "--of"),
        ("figures", "--of"), ("figures", "--by"), ("report", "--of"), ("count", "--labels"),
    ],
)  # fmt: skip
def test_unknown_label_set(fails, ready, command, option):
    line = fails(2, command, ready, option, "areas")
    assert line == f"thc {command}: {ready} has no label set 'areas'; it has: roi"


def test_label_sets_of_one_kind(fails, ready):
    line = fails(2, "fractions", ready, "--of", "roi", "--by", "roi")
    assert "both are label sets of regions; give a set of structures as of (--of)" in line


@pytest.mark.parametrize("command", ["count", "histogram", "figures", "report"])
def test_store_without_label_sets(fails, inputs, tmp_path, command):
    store = tmp_path / "plain.ome.zarr"
    make("convert", inputs / "slices", store, "--spacing", "1um")
    line = fails(2, command, store)
    assert str(store) in line
    assert "thc labels" in line


@pytest.mark.parametrize("command", ["info", "count", *QUESTIONS])
def test_no_store(fails, tmp_path, command):
    line = fails(2, command, tmp_path / "nowhere")
    assert line.endswith(
        f"{tmp_path}/nowhere does not exist; make it with: thc convert SOURCE STORE"
    )


@pytest.mark.parametrize("command", ["info", "count", *QUESTIONS])
def test_not_a_store(fails, inputs, command):
    line = fails(2, command, inputs / "slices")
    assert f"{inputs}/slices is not a store; make one with: thc convert" in line


@pytest.mark.parametrize("command", ["info", "count", *QUESTIONS])
def test_a_file_is_not_a_store(fails, inputs, command):
    line = fails(2, command, inputs / "labels.tif")
    assert f"{inputs}/labels.tif is a file and not a store; make one of it with: thc conv" in line


@pytest.mark.parametrize(
    "root", ["", "no json", "[]", '{"zarr_format": 3, "node_type": "group", "attributes": {}}']
)
def test_store_of_another_program(fails, tmp_path, root):
    (tmp_path / "zarr.json").write_text(root)
    line = fails(2, "info", tmp_path)
    assert f"{tmp_path} is not a store of thc_dask; make one: thc convert {tmp_path} STORE" in line


def test_labels_for_what_is_no_store(fails, inputs):
    before = files(inputs / "slices")
    line = fails(2, "labels", inputs / "labels.tif", inputs / "slices", *STRUCTURES)
    assert "is not a store; make one with: thc convert" in line
    assert files(inputs / "slices") == before


def test_store_not_finished(fails, copy):
    (copy / "thc/plan.json").write_text("{}")
    (copy / "zarr.json").unlink()
    for command in ("info", "count", *QUESTIONS):
        line = fails(1, command, copy)
        assert (
            f"{copy} is not finished: its conversion is still running, or was interrupted; " in line
        )
        assert "--resume" in line
        assert "--overwrite" in line


@pytest.mark.parametrize("name", ["begun.ome.zarr", "begun"])
def test_source_not_finished(fails, refuses, copy, inputs, tmp_path, name):
    (copy / "thc/plan.json").write_text("{}")
    (copy / "zarr.json").unlink()
    begun = copy.rename(tmp_path / name)
    says = f"zarr: {begun} is not finished: its conversion is still running, or was interrupted; "
    assert says in refuses(1, begun)
    store = tmp_path / "target.ome.zarr"
    make("convert", inputs / "slices", store, "--spacing", "1um")
    assert says in fails(1, "labels", begun, store, *STRUCTURES)


def test_store_that_exists(fails, inputs, copy):
    before = files(copy)
    line = fails(2, "convert", inputs / "slices", copy, "--spacing", "1um")
    assert line.endswith(f"{copy} exists; choose another name or give --overwrite")
    assert files(copy) == before
    make("convert", inputs / "slices", copy, "--spacing", "1um", "--overwrite")
    assert not (copy / "labels").exists()


def test_overwrite_replaces_stores_only(fails, inputs, tmp_path):
    folder = shutil.copytree(inputs / "slices", tmp_path / "photos")
    before = files(folder)
    line = fails(2, "convert", inputs / "slices", folder, "--spacing", "1um", "--overwrite")
    assert f"{folder} exists and is not a store, so --overwrite leaves it alone" in line
    line = fails(2, "convert", folder, folder, "--spacing", "1um", "--overwrite")
    assert f"store {folder} would replace its own source" in line
    assert files(folder) == before


def test_a_wrong_source_replaces_nothing(fails, copy, tmp_path):
    before = files(copy)
    fails(2, "convert", tmp_path / "nowhere.tif", copy, "--overwrite")
    fails(2, "convert", "phantom:8,16,32", copy, "--codec", "lz4", "--overwrite")
    assert files(copy) == before


def test_damaged_store(fails, copy):
    [shard] = copy.glob("0/image/c/0/0/0")
    data = bytearray(shard.read_bytes())
    data[100] ^= 255
    shard.write_bytes(data)
    line = fails(1, "count", copy)
    assert f"{copy}/0/image/c/0/0/0: chunk (0, 0, 0) is damaged" in line
    assert not (copy / "counts").exists()


# ---- outputs ------------------------------------------------------------------------------


def test_unknown_suffix_of_an_output(fails, ready, tmp_path):
    for name in ("h.xlsx", "h"):
        line = fails(2, "histogram", ready, "-o", tmp_path / name)
        assert line.endswith(
            f"output {tmp_path}/{name}: unknown format; use one of .csv .parquet .json .nc .zarr"
        )
    assert list(tmp_path.iterdir()) == []


def test_unknown_format_of_figures(fails, ready, tmp_path):
    line = fails(2, "figures", ready, "-o", tmp_path, "--format", "gif")
    assert "invalid choice: 'gif' (choose from" in line
    assert list(tmp_path.iterdir()) == []


def test_output_over_a_store(fails, tmp_path, ready):
    store = shutil.copytree(ready, tmp_path / "volume.zarr")
    before = files(store)
    line = fails(2, "histogram", store, "-o", store)
    assert f"output {store}: a folder of that name holds something else; choose another" in line
    (tmp_path / "h.csv").mkdir()
    assert "choose another name" in fails(2, "histogram", store, "-o", tmp_path / "h.csv")
    assert files(store) == before


def test_output_below_a_file(fails, ready, tmp_path):
    (tmp_path / "file").touch()
    for command, name in (("histogram", "h.csv"), ("report", "r.html"), ("figures", "")):
        line = fails(1, command, ready, "-o", tmp_path / "file" / name)
        assert f"cannot write {tmp_path}/file" in line
        assert "a part of the path is a file; choose another target" in line
    line = fails(1, "convert", "phantom:8,16,32", tmp_path / "file" / "s")
    assert "a part of the path is a file; choose another target" in line


def test_output_to_an_address(fails, ready):
    line = fails(2, "histogram", ready, "-o", "s3://bucket/h.csv")
    assert "output s3://bucket/h.csv: tables go to files; give a path" in line


@pytest.mark.parametrize("command", ["phantom", "demo"])
def test_folder_that_is_not_empty(fails, inputs, command):
    before = files(inputs)
    line = fails(2, command, inputs)
    assert f"{inputs}" in line
    assert "not empty" in line
    assert files(inputs) == before


def test_demo_with_data_that_are_not_there(fails, tmp_path):
    line = fails(2, "demo", tmp_path / "demo", "--data", tmp_path)
    assert f"data {tmp_path}: slice_z309.tif is missing; give the folder that holds it" in line
    assert list(tmp_path.iterdir()) == []


# ---- disks --------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path):
    """A file system of 1 MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if not (shutil.which("mount") and os.geteuid() == 0):
        pytest.skip("mounting a small file system needs root and mount")
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting a small file system is not permitted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def leave(disk, n_bytes):
    """Fill a file system but for so many bytes."""
    (disk / "filler").unlink(missing_ok=True)
    room = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    (disk / "filler").write_bytes(b"\1" * max(0, room - n_bytes))


def fuller_and_fuller(disk, step):
    """Yield as the disk, emptied each time, is left with ever more room."""
    for n_bytes in range(0, 2**20, step):
        for path in disk.iterdir():
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        yield n_bytes
    pytest.fail("a megabyte was not enough")


FULL = "the disk is full; free space, then run it again"
LABELS = ("labels", "labels.tif", "store", *STRUCTURES)


def test_full_disk_during_conversion(run, inputs, disk):
    """Wherever the disk fills, in voxels, metadata or the root: what is left is no store."""
    store, failures = disk / "made.ome.zarr", 0
    for room in fuller_and_fuller(disk, 16384):
        leave(disk, room)
        code, _, err = run("convert", inputs / "slices", store, "--spacing", "1um")
        if code == 0:
            break
        assert code == 1
        assert FULL in said("convert", err)
        assert_no_store(store)
        assert list(store.rglob("*.partial")) == []
        failures += 1
    assert failures > 3
    assert open_volume(store)["0/image"].shape == SHAPE


def answers(run, store):
    """Return what a store says of itself, but for the number of files, and its counts."""
    facts = json.loads(run("info", store, "--json")[1])
    return facts | {"files": {}}, run("histogram", store, "--json")


@pytest.mark.parametrize(
    ("command", "step"),
    [(LABELS, 12288), (("count", "store"), 49152)],
    ids=["labels", "count"],
)
def test_full_disk_while_something_is_added(run, ready, disk, command, step):
    """The store answers as before, and lists nothing that is not there."""
    store, failures = disk / "store", 0
    paths = {"store": store, "labels.tif": ready.parent / "labels.tif"}
    before = None
    for room in fuller_and_fuller(disk, step):
        shutil.copytree(ready, store)
        before = before or answers(run, store)
        listed = (store / "labels/zarr.json").read_bytes()
        leave(disk, room)
        code, _, err = run(*(paths.get(a, a) for a in command))
        if code == 0:
            break
        assert code == 1
        assert FULL in said(command[0], err)
        assert answers(run, store) == before
        assert (store / "labels/zarr.json").read_bytes() == listed
        assert [p.name for p in (store / "labels").iterdir() if p.is_dir()] == ["roi"]
        assert list(store.glob("counts/*/*/counts")) == []
        failures += 1
    assert failures > 2


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".json", ".nc", ".zarr"])
def test_full_disk_under_a_table(fails, ready, disk, suffix):
    """What was written before is still there, and nothing besides."""
    store = shutil.copytree(ready, disk / "store")
    old = disk / f"old{suffix}"
    make("histogram", store, "-o", old, "--box", "0:5,0:40,0:40")
    before = files(store), files(old) if old.is_dir() else old.read_bytes()
    leave(disk, 0)
    for path in (disk / f"new{suffix}", old):
        line = fails(1, "histogram", store, "-o", path)
        assert line.endswith(f"cannot write {path}: {FULL}")
    assert sorted(p.name for p in disk.iterdir()) == ["filler", old.name, "store"]
    assert (files(store), files(old) if old.is_dir() else old.read_bytes()) == before


@pytest.mark.parametrize(("command", "name"), [("report", "report.html"), ("figures", "")])
def test_full_disk_under_pictures(fails, ready, disk, command, name):
    (disk / "out").mkdir()
    leave(disk, 0)
    line = fails(1, command, ready, "-o", disk / "out" / name)
    assert f"cannot write {disk}/out/" in line
    assert line.endswith(FULL)
    assert files(disk / "out") == {}


def test_full_disk_under_a_phantom(fails, disk):
    line = fails(1, "phantom", disk / "phantom", "--shape", "16,128,512")
    assert line.endswith(f"cannot write {disk}/phantom: {FULL}")
    assert files(disk) == {}


def test_full_device_behind_the_output(ready):
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "thc_dask", "info", str(ready)],
            stdout=full, stderr=subprocess.PIPE, text=True,
            env=os.environ | {"PYTHONUNBUFFERED": ""},  # what waits in a buffer fails last
        )  # fmt: skip
    assert (done.returncode, done.stderr) == (1, "thc info: No space left on device\n")


def test_read_only_target(fails, inputs, ready, disk):
    store = shutil.copytree(ready, disk / "store")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    before = files(disk)
    source = inputs / "slices"
    for arguments in (
        ("convert", source, disk / "new", "--spacing", "1um"),
        ("convert", source, store, "--spacing", "1um", "--overwrite"),
        ("labels", inputs / "labels.tif", store, *STRUCTURES),
        ("count", store),
        ("histogram", ready, "-o", disk / "h.csv"),
        ("histogram", ready, "-o", disk / "h.zarr"),
        ("figures", ready, "-o", disk / "figures"),
        ("report", ready, "-o", disk / "report.html"),
        ("demo", disk / "demo"),
    ):
        line = fails(1, *arguments)
        assert f"cannot write {disk}/" in line
        assert line.endswith("the file system is read-only; choose another target")
    assert files(disk) == before
    make("histogram", store)


# ---- interrupts ---------------------------------------------------------------------------

# A shell may have told its background jobs to ignore Ctrl-C.
THC = [
    sys.executable,
    "-c",
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    "from thc_dask.cli import main; main()",
]


def interrupt(*arguments):
    """Press Ctrl-C at the first sign of progress; return exit code, output and errors."""
    with subprocess.Popen(
        [*THC, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert PROGRESS.fullmatch(running.stderr.readline().rstrip("\n"))
        running.send_signal(signal.SIGINT)
        out, err = running.communicate()
    return running.returncode, out, err


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Codes that look like noise: far more than can be written before Ctrl-C is heard."""
    path = tmp_path_factory.mktemp("large") / "stack.tif"
    return save(path, RNG.integers(0, 9, (64, 512, 2048), np.uint8))


SMALL = ("--chunk", "32", "--shard", "64")  # so that progress begins early


def test_interrupted_conversion(fails, large, tmp_path):
    store = tmp_path / "made.ome.zarr"
    slow = ("--codec", "zstd:19")
    code, out, err = interrupt("convert", large, store, "--spacing", "1um", *SMALL, *slow)
    assert (code, out) == (130, ""), err
    assert said("convert", err) == "thc convert: interrupted"
    assert_no_store(store)
    assert "is not finished" in fails(1, "info", store)
    assert "is not finished" in fails(1, "convert", store, tmp_path / "other.ome.zarr")


def test_interrupted_labels(run, large, tmp_path):
    store = tmp_path / "made.ome.zarr"
    make("convert", large, store, "--spacing", "1um", *SMALL)
    before = files(store)
    code, out, err = interrupt(
        "labels", large, store, "--name", "roi", "--scheme", "prasad2020-roi"
    )
    assert (code, out) == (130, ""), err
    assert said("labels", err) == "thc labels: interrupted"
    assert files(store) == before
    assert run("info", store)[0] == 0
