import multiprocessing
import pickle
import sys
import threading
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from email.utils import formatdate

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.assertions import new_store, read_voxels
from tests.boss_server import CUBOID, BossServer, Sparse
from tests.strategies import extents
from thc_dask.catalogue import CUBES, GRID, known_extents, plane_of
from thc_dask.convert import write_store
from thc_dask.errors import DataError, FailureError, MissingError, RequestError
from thc_dask.grid import Box, Extent
from thc_dask.labels import write_labels
from thc_dask.reader import as_dataarray, read
from thc_dask.sources.bossdb import (
    Patience,
    annotated_extents,
    annotated_planes,
    cutouts,
    open_bossdb,
)
from thc_dask.sources.bossdb.address import parse_address
from thc_dask.sources.bossdb.client import find_server

QUICK = Patience(first_s=0.001)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    """Nobody's settings of ``intern`` are read."""
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("HOST", "PROTOCOL", "TOKEN"):
        monkeypatch.delenv(f"INTERN_{name}", raising=False)
    return tmp_path


@pytest.fixture
def server(monkeypatch):
    with BossServer() as started:
        for name, value in started.environment.items():
            monkeypatch.setenv(name, value)
        yield started


def voxels(shape, dtype="uint8"):
    rng = np.random.default_rng(sum(shape))
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def open_quickly(location, **options):
    return open_bossdb(location, **{"patience": QUICK, **options})


class Pauses:
    """Instead of waiting, remember how long."""

    def __init__(self):
        self.seconds = []

    def __call__(self, event, seconds):
        self.seconds.append(seconds)


# --- the voxels -----------------------------------------------------------------------------------

START = (3, 500, 1000)
WHOLE = voxels((40, 60, 90), "uint16")


@given(st.data())
def test_any_box_holds_the_voxels_of_the_server(shared, data):
    box = data.draw(extents(WHOLE.shape))
    np.testing.assert_array_equal(read(shared, box), WHOLE[box.slices], strict=True)


@pytest.fixture(scope="module")
def shared():
    """A volume whose frame does not begin at 0, so that cuboids cut it."""
    with BossServer() as started, pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", "/nowhere")
        for name, value in started.environment.items():
            patch.setenv(name, value)
        location = started.add("lab/mouse/image", WHOLE, start=START)
        yield open_quickly(location)


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint64"])
def test_types_come_as_they_are(server, dtype):
    array = voxels((3, 4, 5), dtype)
    reader = open_quickly(server.add("lab/mouse/any", array))
    found = read(reader, reader.grid.extent)
    np.testing.assert_array_equal(found, array, strict=True)
    assert found.flags.writeable
    assert reader.unit == (3, 4, 5)


def test_what_intern_writes_is_read(server, monkeypatch):
    from intern.remote.boss import BossRemote

    location = server.add("lab/mouse/image", np.zeros((4, 8, 9), np.uint8))
    remote = BossRemote()
    channel = remote.get_channel("image", "lab", "mouse")
    array = voxels((2, 5, 6))
    remote.create_cutout(channel, 0, [3, 9], [2, 7], [1, 3], array)
    np.testing.assert_array_equal(read(open_quickly(location), Extent((1, 2, 3), (3, 7, 9))), array)


def test_conversion_asks_for_each_voxel_once_and_along_cuboids(server):
    array = voxels((70, 520, 1100))
    location = server.add("lab/mouse/image", array, spacing=(2000, 1170, 1170), unit="nanometers")
    store = new_store()
    plan = write_store(open_quickly(location), store, levels=2)
    np.testing.assert_array_equal(read_voxels(store, "0/image"), array)
    assert plan.spacing_um == (2.0, 1.17, 1.17)
    covered = np.zeros(array.shape, np.uint8)
    for box in server.answered:
        covered[box.slices] += 1
        ends = zip(box.start, box.stop, CUBOID, array.shape, strict=True)
        assert all(a % c == 0 and (b % c == 0 or b == n) for a, b, c, n in ends)
        assert box.n_vox <= 512 * 512 * 115
    assert (covered == 1).all()
    assert server.n_bytes == array.nbytes


def test_boxes_that_cut_cuboids_move_no_voxel_twice(server):
    array = voxels((20, 700, 30))
    reader = open_quickly(server.add("lab/mouse/image", array))
    parts = [read(reader, Extent((0, y, 0), (20, y + 100, 30))) for y in range(0, 700, 100)]
    np.testing.assert_array_equal(np.concatenate(parts, axis=1), array)
    assert server.n_bytes == array.nbytes


@given(extents((70, 1300, 1300)), st.sampled_from([1, 2, 8]))
def test_cutouts_tile_a_box_along_cuboids(box, itemsize):
    boxes = list(cutouts(box, CUBOID, itemsize))
    assert sum(b.n_vox for b in boxes) == box.n_vox
    assert all(box.contains(b) for b in boxes)
    for b in boxes:
        ends = zip(b.start, b.stop, box.start, box.stop, CUBOID, strict=True)
        assert all(
            a in (low, a // c * c) and z in (high, z // c * c) for a, z, low, high, c in ends
        )
        assert b.shape[1] <= 512
        assert b.shape[2] <= 512
        assert b.n_vox <= 512 * 512 * 115
        assert b.n_vox * itemsize <= max(2**24, 16 * 512 * 512 * itemsize)


def test_lazy_array_reads_when_it_is_computed(server):
    array = voxels((6, 7, 8))
    lazy = as_dataarray(open_quickly(server.add("lab/mouse/image", array)))
    assert server.cutouts == []
    np.testing.assert_array_equal(lazy[1:3].compute(), array[1:3])


# --- what the server says of a channel ------------------------------------------------------------


@pytest.mark.parametrize(
    ("unit", "spacing"),
    [
        ("nanometers", (2000, 1170, 1009)),
        ("micrometers", (2.0, 1.17, 1.009)),
        ("millimeters", (2e-3, 1.17e-3, 1.009e-3)),
        ("centimeters", (2e-4, 1.17e-4, 1.009e-4)),
    ],
)
def test_grid_comes_from_the_coordinate_frame(server, unit, spacing):
    array = voxels((5, 6, 7))
    location = server.add("lab/mouse/image", array, spacing=spacing, unit=unit, start=(10, 0, 20))
    grid = open_quickly(location).grid
    assert grid.shape == (5, 6, 7)
    assert grid.spacing_um == pytest.approx((2.0, 1.17, 1.009), rel=1e-12)
    assert grid.origin_um == pytest.approx((20.0, 0.0, 20.18), rel=1e-12)
    if unit == "nanometers":
        assert grid.spacing_um == (2.0, 1.17, 1.009)


def test_given_spacing_wins_and_moves_the_origin_with_it(server):
    location = server.add("lab/mouse/image", voxels((2, 2, 2)), start=(10, 0, 20))
    grid = open_quickly(location, spacing_um=(3.0, 2.0, 2.0)).grid
    assert (grid.spacing_um, grid.origin_um) == ((3.0, 2.0, 2.0), (30.0, 0.0, 40.0))


@pytest.mark.parametrize(
    ("hierarchy", "shape", "spacing", "origin"),
    [
        ("isotropic", (3, 4, 6), (8.0, 4.0, 4.0), (0.0, 1.5, 1.5)),
        ("anisotropic", (9, 4, 6), (2.0, 4.0, 4.0), (0.0, 1.5, 1.5)),
    ],
)
def test_coarser_levels_are_those_of_the_server(server, hierarchy, shape, spacing, origin):
    array = voxels((9, 13, 21))
    location = server.add(
        "lab/mouse/image", array, spacing=(2, 1, 1), n_levels=3, hierarchy=hierarchy
    )
    reader = open_quickly(f"{location}?level=2")
    assert (reader.grid.shape, reader.grid.spacing_um) == (shape, spacing)
    assert reader.grid.origin_um == origin
    expected = server.channels["lab/mouse/image"].levels[2]
    np.testing.assert_array_equal(read(reader, reader.grid.extent), expected)
    assert {r.level for r in server.cutouts} == {2}
    assert open_quickly(f"{location}?level=2", level=1).address.level == 1


def test_levels_that_are_not_there(server):
    array = voxels((4, 4, 4))
    plain = server.add("lab/mouse/plain", array)
    with pytest.raises(MissingError, match="level 0 only, its downsampling is not downsampled"):
        open_quickly(plain, level=1)
    with pytest.raises(MissingError, match="levels 0 to 1"):
        open_quickly(server.add("lab/rat/image", array, n_levels=2), level=2)
    moved = server.add("lab/cat/image", array, n_levels=2, start=(1, 0, 0))
    with pytest.raises(RequestError, match="level 0 only; leave the level out"):
        open_quickly(moved, level=1)


def test_provenance_says_where_from_and_no_secret(server):
    location = server.add("lab/mouse/image", voxels((2, 3, 4)))
    reader = open_quickly(location)
    assert reader.provenance == {
        "kind": "bossdb", "location": location, "host": server.host, "level": 0,
        "channel_type": "image", "shape": [2, 3, 4], "dtype": "uint8",
    }  # fmt: skip
    assert "public" not in repr(reader)


@pytest.mark.parametrize(
    "location",
    [
        "bossdb://lab/mouse", "bossdb://lab/mouse/image/more", "bossdb:lab/mouse/image",
        "bossdb://lab//image", "bossdb://lab/mouse/image?level=10", "bossdb://lab/mouse/image?l=1",
        "bossdb://lab/mo use/image",
    ],
)  # fmt: skip
def test_addresses_that_are_none(location):
    with pytest.raises(RequestError, match="bossdb://collection/experiment/channel"):
        parse_address(location)


# --- who asks -------------------------------------------------------------------------------------


def write_settings(home, text):
    (home / ".intern").mkdir()
    (home / ".intern" / "intern.cfg").write_text(text)


def test_settings_of_the_file_come_before_the_environment(server, home):
    server.tokens = {"a%secret"}
    location = server.add("lab/mouse/image", voxels((2, 3, 4)))
    with pytest.raises(RequestError, match=r"no permission on .*Invalid token.*INTERN_TOKEN"):
        open_quickly(location)
    text = f"[Default]\nprotocol = http\nhost = {server.host}\ntoken = a%%secret\n"
    write_settings(home, text)
    reader = open_quickly(location)
    assert read(reader, reader.grid.extent).shape == (2, 3, 4)
    assert "secret" not in repr(reader)


def test_without_settings_the_public_server_is_asked(monkeypatch):
    found = find_server()
    assert (found.protocol, found.host, found.token) == ("https", "api.bossdb.io", "public")
    monkeypatch.setenv("INTERN_TOKEN", "mine")
    assert find_server().token == "mine"


@pytest.mark.parametrize("text", ["[Default]\nhost = here\n", "host = here\n", "[Other]\na = b\n"])
def test_broken_settings(home, text):
    write_settings(home, text)
    with pytest.raises(RequestError, match=r"intern.cfg.*protocol, host and token"):
        find_server()


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "intern.remote.boss", None)
    with pytest.raises(RequestError, match=r'pip install "thc_dask\[bossdb\]"'):
        open_bossdb("bossdb://lab/mouse/image")


# --- many at once ---------------------------------------------------------------------------------


def test_requests_are_under_way_at_once_and_no_more_than_asked_for(server):
    array = voxels((60, 10, 2048))
    reader = open_quickly(server.add("lab/mouse/image", array), n_connections=4)
    server.barrier = threading.Barrier(4)  # nobody is answered before four have asked
    parts = [Extent((z, 0, 0), (z + 20, 10, 2048)) for z in (0, 20, 40)]
    with ThreadPoolExecutor(3) as pool:
        found = list(pool.map(lambda box: read(reader, box), parts))
    np.testing.assert_array_equal(np.concatenate(found), array)
    assert len(server.cutouts) == 12
    assert server.n_at_once == 4
    assert len({r.client for r in server.cutouts}) <= 4


def test_connections_stay_open_between_reads(server):
    reader = open_quickly(server.add("lab/mouse/image", voxels((4, 5, 6))), n_connections=1)
    for _ in range(5):
        read(reader, reader.grid.extent)
    assert len({r.client for r in server.cutouts}) == 1


def test_reader_travels(server):
    array = voxels((4, 5, 6))
    reader = pickle.loads(pickle.dumps(open_quickly(server.add("lab/mouse/image", array))))
    np.testing.assert_array_equal(read(reader, reader.grid.extent), array)


def test_other_processes_read_without_settings(server, monkeypatch):
    array = voxels((4, 5, 6))
    reader = open_bossdb(server.add("lab/mouse/image", array))
    monkeypatch.delenv("INTERN_HOST")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        found = pool.submit(read, reader, reader.grid.extent).result()
    np.testing.assert_array_equal(found, array)


# --- what goes wrong and is tried again -----------------------------------------------------------

FAULTS = {
    "throttled": lambda s: s.fail(429),
    "throttled, come back": lambda s: s.fail(429, retry_after=0),
    "overloaded": lambda s: s.fail(503, times=3),
    "gateway": lambda s: s.fail(502),
    "truncated": lambda s: s.truncate(2),
    "cut off": lambda s: s.cut_off(),
    "hung up": lambda s: s.hang_up(2),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_passes_is_tried_again(server, fault):
    array = voxels((20, 30, 600))
    reader = open_quickly(server.add("lab/mouse/image", array))
    FAULTS[fault](server)
    np.testing.assert_array_equal(read(reader, reader.grid.extent), array)
    assert server.n_faults_left == 0
    assert len(server.answered) == len(set(server.answered)) == 2


def test_silence_ends(server):
    array = voxels((20, 30, 40))
    reader = open_quickly(server.add("lab/mouse/image", array))
    hasty = replace(QUICK, n_tries=50, timeout_s=(5.0, 0.3))  # a busy machine is slow, too
    server.stall()
    found = read(replace(reader, patience=hasty), reader.grid.extent)
    np.testing.assert_array_equal(found, array)
    assert server.n_faults_left == 0


def test_pauses_grow_and_end(server):
    pauses = Pauses()
    patience = Patience(n_tries=7, longest_s=4.0, pause=pauses)
    reader = open_quickly(server.add("lab/mouse/image", voxels((2, 3, 4))), patience=patience)
    server.fail(503, times=99, message="down for repair")
    with pytest.raises(FailureError, match=r"out of order: 503 down for repair \(tried 7 times\)"):
        read(reader, reader.grid.extent)
    assert len(server.cutouts) == 7
    assert all(n / 2 <= p <= n for p, n in zip(pauses.seconds, (0.5, 1, 2, 4, 4, 4), strict=True))


def in_two_minutes():
    import time

    return formatdate(time.time() + 120, usegmt=True)


@pytest.mark.parametrize(("value", "low", "high"), [(7, 7, 7), ("in two minutes", 100, 120)])
def test_throttled_for_a_while(server, value, low, high):
    pauses = Pauses()
    array = voxels((2, 3, 4))
    patience = Patience(pause=pauses)
    reader = open_quickly(server.add("lab/mouse/image", array), patience=patience)
    server.fail(429, retry_after=in_two_minutes() if value == "in two minutes" else value)
    np.testing.assert_array_equal(read(reader, reader.grid.extent), array)
    (waited,) = pauses.seconds
    assert low <= waited <= high


def test_throttled_until_tomorrow_is_said_at_once(server):
    pauses = Pauses()
    patience = Patience(pause=pauses)
    reader = open_quickly(server.add("lab/mouse/image", voxels((2, 3, 4))), patience=patience)
    said = "User is throttled. Expected available tomorrow."
    server.fail(429, retry_after=40000, message=said)
    with pytest.raises(FailureError, match=r"throttles: User is throttled.*40000 s.*tried once"):
        read(reader, reader.grid.extent)
    assert pauses.seconds == []
    assert len(server.cutouts) == 1


# --- what stays wrong -----------------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["uint16", "uint64"])
def test_voxels_of_another_type_are_refused(server, sent):
    reader = open_quickly(server.add("lab/mouse/image", voxels((2, 3, 4))))
    server.send_as = sent
    with pytest.raises(
        DataError, match=r"image: voxels 0:2,0:3,0:4: .*sent voxels of another type"
    ):
        read(reader, reader.grid.extent)
    assert len(server.cutouts) == 2


def test_unknown_names_are_answered_with_those_there_are(server):
    server.add("lab/mouse/image", voxels((2, 3, 4)))
    server.add("lab/mouse/cells", voxels((2, 3, 4), "uint64"))
    with pytest.raises(MissingError, match=r"images does not exist.*has: cells, image"):
        open_quickly("bossdb://lab/mouse/images")
    with pytest.raises(MissingError, match="rat does not exist"):
        open_quickly("bossdb://lab/rat/image")


def test_no_permission(server):
    location = server.add("lab/mouse/image", voxels((2, 3, 4000)))
    reader = open_quickly(location, n_connections=1)
    server.denied.add("lab/mouse/image")
    with pytest.raises(RequestError, match=r"no permission on 127.*the permission to read.*token"):
        open_quickly(location)
    before = len(server.requests)
    with pytest.raises(RequestError, match="no permission"):
        read(reader, reader.grid.extent)
    assert len(server.requests) - before == 1  # the rest was not asked for


def test_nothing_is_written_after_a_read_has_failed(server):
    array = voxels((16, 3, 4096))
    reader = open_quickly(server.add("lab/mouse/image", array), n_connections=2)
    reader = replace(reader, patience=replace(QUICK, n_tries=1))
    server.barrier = threading.Barrier(2)
    server.gate.clear()
    server.fail(500)  # one request fails while the other has no answer yet
    out = np.zeros(array.shape, np.uint8)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(reader.read_into, out, (0, 0, 0))
        with pytest.raises(TimeoutError):
            running.result(timeout=0.3)
        server.gate.set()
        with pytest.raises(FailureError, match="out of order: 500"):
            running.result()
    assert np.count_nonzero(out.any(axis=(0, 1))) == 512  # of the one that was under way
    assert len(server.cutouts) == 2


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"datatype": "float32"}, "float32 is not a valid data type"),
        ({"type": "movie"}, "movie is not a valid type"),
    ],
)
def test_channels_that_cannot_be_understood(server, more, says):
    location = server.add("lab/mouse/image", voxels((2, 3, 4)), **more)
    with pytest.raises(DataError, match=says):
        open_quickly(location)


def test_frames_that_cannot_be_understood(server):
    location = server.add("lab/mouse/image", voxels((2, 3, 4)), unit="parsecs")
    with pytest.raises(DataError, match="parsecs is not a valid voxel unit"):
        open_quickly(location)
    location = server.add("lab/rat/image", voxels((2, 3, 4)), spacing=(0, 1, 1))
    with pytest.raises(DataError, match="coordinate frame lab_rat: spacing"):
        open_quickly(location)


def test_another_kind_of_server(server, monkeypatch):
    from tests import boss_server

    monkeypatch.setattr(boss_server._Handler, "_experiment", lambda *names: ["a web page"])
    with pytest.raises(DataError, match=r"127.0.0.1:\d+ does not answer as bossDB does"):
        open_quickly("bossdb://lab/mouse/image")


def test_server_that_is_not_there(monkeypatch):
    with BossServer() as gone:
        host, environment = gone.host, gone.environment
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(FailureError, match=rf"http://{host} cannot be reached.*\(tried 3 times\)"):
        open_quickly("bossdb://lab/mouse/image")


def test_host_that_is_no_host(monkeypatch):
    monkeypatch.setenv("INTERN_PROTOCOL", "http")
    monkeypatch.setenv("INTERN_HOST", "local host:x")
    monkeypatch.setenv("INTERN_TOKEN", "public")
    with pytest.raises(RequestError, match=r"http://local host:x is no address.*INTERN_HOST"):
        open_quickly("bossdb://lab/mouse/image")


@pytest.mark.parametrize(
    ("shape", "dtype", "start"),
    [((2, 3, 4), "uint8", (1, 0, 0)), ((2, 3, 4), "uint16", (0, 0, 0)), ((2, 3), "uint8", (0, 0))],
)
def test_memory_that_does_not_fit(server, shape, dtype, start):
    reader = open_quickly(server.add("lab/mouse/image", voxels((2, 3, 4))))
    with pytest.raises(RequestError, match=r"cannot give .* there are \(2, 3, 4\) uint8"):
        reader.read_into(np.zeros(shape, dtype), start)
    with pytest.raises(RequestError, match="0 connections; give 1 or more"):
        open_quickly("bossdb://lab/mouse/image", n_connections=0)


# --- annotations ----------------------------------------------------------------------------------


def test_labels_of_64_bits_become_those_of_the_scheme(server):
    image = server.add("lab/mouse/image", voxels((30, 40, 50)))
    truth = np.zeros((30, 40, 50), np.uint64)
    truth[[7, 19], 5:35, 5:45] = 3
    truth[7, 10, 10] = 8
    reader = open_quickly(server.add("lab/mouse/regions", truth))
    extents = annotated_extents(reader)
    assert [str(e) for e in extents] == ["7:8,0:40,0:50", "19:20,0:40,0:50"]
    store = new_store()
    write_store(open_quickly(image), store, levels=1)
    write_labels(reader, store, "roi", "prasad2020-roi", extents=extents)
    found = read_voxels(store, "labels/roi/0/roi")
    np.testing.assert_array_equal(found, truth.astype(np.uint8), strict=True)


def test_planes_of_any_channel_are_found(server):
    truth = np.zeros((40, 30, 700), np.uint64)
    truth[3, 29, 699] = truth[15, 0, 0] = truth[16, 15, 350] = truth[39, 1, 1] = 2**40
    reader = open_quickly(server.add("lab/mouse/cells", truth))
    assert annotated_planes(reader) == (3, 15, 16, 39)
    assert annotated_planes(reader, [39, 2, 3]) == (3, 39)
    assert annotated_planes(reader, []) == ()
    with pytest.raises(RequestError, match=r"planes \[40\]: the source has planes 0 to 39"):
        annotated_planes(reader, [40])


def test_what_holds_labels_is_not_read_on(server):
    truth = np.zeros((1, 600, 5000), np.uint64)
    truth[0, 300:500, 2400:2700] = 1
    reader = open_quickly(server.add("lab/mouse/cells", truth), n_connections=1)
    assert annotated_planes(reader) == (0,)
    assert len(server.cutouts) <= 9  # of 20: one for each thread that looked at the middle


def prasad(server, channel, boxes):
    array = Sparse(GRID.shape, np.uint64, boxes)
    location = server.add(f"prasad/prasad2020/{channel}", array, spacing=GRID.spacing_um)
    return open_quickly(location)


def test_structures_are_where_they_are_found(server):
    planes = {"CTX": range(140, 471, 30), "STR": range(140, 441, 30)}
    boxes = {
        plane_of(cube.extent, z): cube.extent.shape[0] % 3 + 1
        for cube in CUBES
        for z in planes.get(cube.region, range(140, 471, 30))
    }
    boxes[plane_of(CUBES[3].extent, 141)] = 2
    reader = prasad(server, "pixel_annotation", boxes)
    with pytest.warns(UserWarning, match="E[0-9]") as caught:
        found = annotated_extents(reader, scheme="prasad2020-readme")
    assert sorted(map(str, found)) == sorted(map(str, boxes))
    said = [str(w.message) for w in caught]
    assert said[0].endswith(
        "codes are those of prasad2020-microstructure, not prasad2020-readme (E1)"
    )
    assert "plane 141 holds labels, contrary to the notebook annotation_access (E3)" in said[1]
    assert "planes 141, 470 hold labels, contrary to the paper and the README (E3)" in said[2]
    assert any("planes 141, 470 are empty in the cube STR" in line for line in said)
    assert server.n_bytes < 2 * sum(cube.extent.n_vox for cube in CUBES) * 8


def test_region_planes_are_found_though_sources_disagree(server):
    planes = (109, 160, 209, 259, 309, 359, 409, 410, 460)
    boxes = {Extent((z, 343, 904), (z + 1, 1200, 5657)): 1 for z in planes}
    reader = prasad(server, "region_of_interest", boxes)
    with pytest.warns(UserWarning, match="E[0-9]") as caught:
        assert annotated_planes(reader) == planes
    said = [str(w.message) for w in caught]
    assert said == [
        "region_of_interest: plane 160 holds labels, contrary to the notebook roi_access and the "
        "README (E2)",
        "region_of_interest: plane 159 is empty, contrary to the notebook roi_access and the "
        "README (E2)",
        "region_of_interest: planes 160, 410, 460 hold labels, contrary to the paper (E2)",
        "region_of_interest: planes 159, 459 are empty, contrary to the paper (E2)",
    ]


def test_planes_that_were_not_looked_at_are_not_held_against_a_source(server):
    location = "bossdb://prasad/prasad2020/region_of_interest"
    boxes = dict.fromkeys(known_extents(location), 5)
    reader = prasad(server, "region_of_interest", boxes)
    assert annotated_planes(reader, [109, 159]) == (109, 159)  # and no warning


def test_catalogue_is_not_held_against_a_smaller_volume(server):
    truth = np.zeros((8, 20, 20), np.uint64)
    truth[2] = 1
    location = server.add("prasad/prasad2020/pixel_annotation", truth)
    assert annotated_planes(open_quickly(location)) == (2,)  # and no warning


def test_labels_of_a_published_channel_need_only_their_scheme(server, tmp_path):
    truth = np.zeros((8, 20, 20), np.uint64)
    truth[2, 3:9], truth[5, 4:6] = 3, 1
    location = server.add("prasad/prasad2020/pixel_annotation", truth)
    store = tmp_path / "volume.ome.zarr"
    write_store("phantom:8,20,20", store)
    kept = write_labels(location, store, scheme="prasad2020-microstructure")
    assert kept.name == "microstructure"
    assert [e.start[0] for e in kept.extents] == [2, 5]
    np.testing.assert_array_equal(read(kept.array(), kept.store.grid.extent), truth)


@pytest.mark.parametrize("crop", [None, Box((1.0, 2.0, 3.0), (7.0, 11.0, 19.0))])
@pytest.mark.parametrize("flip", ["", "z", "zx"])
def test_labels_beside_a_channel_are_turned_and_cut_as_its_volume_was(server, tmp_path, flip, crop):
    truth = np.zeros((8, 20, 20), np.uint64)
    truth[2, 3:9], truth[6, 4:6] = 3, 1
    grey = np.arange(truth.size, dtype=np.uint8).reshape(truth.shape)
    image = server.add("prasad/prasad2020/image", grey)
    channel = server.add("prasad/prasad2020/pixel_annotation", truth)
    store = tmp_path / "volume.ome.zarr"
    write_store(image, store, spacing="1um", flip=flip, crop=crop)
    kept = write_labels(channel, store, scheme="prasad2020-microstructure")
    turned = truth[tuple(slice(None, None, -1 if axis in flip else 1) for axis in "zyx")]
    shown = turned if crop is None else turned[1:7, 2:11, 3:19]
    np.testing.assert_array_equal(read(kept.array(), kept.store.grid.extent), shown)
    held = np.flatnonzero(shown.any(axis=(1, 2))).tolist()
    assert sorted(e.start[0] for e in kept.extents) == held
