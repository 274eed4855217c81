import gzip
import json
import pickle
import re
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np
import pytest
import tensorstore as ts
from hypothesis import given
from hypothesis import strategies as st

from tests.assertions import new_store, read_voxels
from tests.strategies import extents
from thc_dask.convert import write_store
from thc_dask.errors import DataError, FailureError, MissingError, RequestError
from thc_dask.grid import Grid
from thc_dask.reader import as_dataarray, read
from thc_dask.sources.precomputed import AWS_CREDENTIALS, open_precomputed

CHUNK = (8, 16, 20)
SHARDING = {
    "@type": "neuroglancer_uint64_sharded_v1",
    "preshift_bits": 1,
    "minishard_bits": 1,
    "shard_bits": 1,
    "hash": "identity",
    "minishard_index_encoding": "gzip",
    "data_encoding": "gzip",
}
QUICK = {"max_retries": 2, "initial_delay": "1ms", "max_delay": "1ms"}


def voxels(shape=(20, 37, 53), dtype="uint8"):
    rng = np.random.default_rng(sum(shape))
    return rng.integers(0, np.iinfo(dtype).max, shape, dtype, endpoint=True)


def write(folder, *levels, offset=(0, 0, 0), resolution=(2000, 1170, 1160), kind="image", **scale):
    """Write a volume with TensorStore, from arrays (z, y, x), the finest first."""
    for k, array in enumerate(levels):
        ratio = [round(n / m) for n, m in zip(levels[0].shape, array.shape, strict=True)]
        spec = {
            "driver": "neuroglancer_precomputed",
            "kvstore": {"driver": "file", "path": f"{folder}/"},
            "multiscale_metadata": {
                "type": kind, "data_type": array.dtype.name, "num_channels": 1
            },
            "scale_metadata": {
                "size": array.shape[::-1],
                "encoding": "raw",
                "chunk_size": CHUNK[::-1],
                "resolution": [p * r for p, r in zip(resolution, ratio, strict=True)][::-1],
                "voxel_offset": [a // 2**k for a in offset][::-1],
                **scale,
            },
        }  # fmt: skip
        volume = ts.open(spec, create=True).result()
        volume[..., 0].write(array.T).result()
    return f"precomputed://file://{folder}"


FORMS = {
    "uint8": (voxels(), {}),
    "uint8 sharded": (voxels(), {"sharding": SHARDING}),
    "uint16": (voxels(dtype="uint16"), {"offset": (3, 1, 7)}),
    "uint64 labels": (
        voxels(dtype="uint64") % 5 * 2**40,
        {
            "kind": "segmentation", "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [8, 8, 8],
        },
    ),
    "uint64 labels sharded": (
        voxels(dtype="uint64") % 3,
        {
            "kind": "segmentation", "encoding": "compressed_segmentation",
            "compressed_segmentation_block_size": [8, 8, 8], "sharding": SHARDING,
            "offset": (5, 6, 7),
        },
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def volumes(tmp_path_factory):
    """A location and an array of each form."""
    root = tmp_path_factory.mktemp("precomputed")
    return {
        name: (write(root / name.replace(" ", "_"), array, **options), array)
        for name, (array, options) in FORMS.items()
    }


# --- the voxels -----------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@given(data=st.data())
def test_any_box_holds_what_was_written(volumes, form, data):
    location, array = volumes[form]
    reader = open_precomputed(location)
    box = data.draw(extents(array.shape))
    np.testing.assert_array_equal(read(reader, box), array[box.slices], strict=True)


def test_voxels_go_where_the_caller_says(volumes):
    location, array = volumes["uint8"]
    frame = np.zeros((30, 40, 60), np.uint8)
    open_precomputed(location).read_into(frame[4:9, 7:20, 30:55], (1, 2, 3))
    np.testing.assert_array_equal(frame[4:9, 7:20, 30:55], array[1:6, 2:15, 3:28])
    assert frame.sum() == array[1:6, 2:15, 3:28].sum()


def test_threads_read_with_a_reader_that_travelled(volumes):
    location, array = volumes["uint64 labels sharded"]
    reader = pickle.loads(pickle.dumps(open_precomputed(location)))
    with ThreadPoolExecutor(4) as pool:
        planes = list(pool.map(lambda z: as_dataarray(reader)[z].values, range(len(array))))
    np.testing.assert_array_equal(np.stack(planes), array)


def test_chunks_that_are_not_stored_are_zeros(tmp_path):
    location = write(tmp_path / "volume", voxels())
    for path in (tmp_path / "volume").glob("*/0-20_*"):
        path.unlink()
    found = read(reader := open_precomputed(location), reader.grid.extent)
    assert not found[..., :20].any()
    np.testing.assert_array_equal(found[..., 20:], voxels()[..., 20:])


def test_conversion(volumes):
    location, array = volumes["uint16"]
    store = new_store()
    plan = write_store(open_precomputed(location), store)
    np.testing.assert_array_equal(read_voxels(store, "0/image"), array)
    assert plan.spacing_um == (2.0, 1.17, 1.16)


# --- the description ------------------------------------------------------------------------------


def test_grid_unit_and_provenance(volumes):
    location, array = volumes["uint64 labels sharded"]
    reader = open_precomputed(location)
    origin = (5 * 2.0, 6 * 1.17, 7 * 1.16)
    assert reader.grid == Grid(array.shape, (2.0, 1.17, 1.16), origin)
    assert (reader.unit, reader.dtype) == (CHUNK, np.dtype("uint64"))
    said = reader.provenance
    assert said == json.loads(json.dumps(said))
    assert said["location"] == location
    assert (said["volume_type"], said["dtype"]) == ("segmentation", "uint64")
    assert said["fingerprint"] != open_precomputed(volumes["uint8"][0]).provenance["fingerprint"]


def test_small_volumes_have_small_units(tmp_path):
    assert open_precomputed(write(tmp_path / "v", voxels((2, 3, 30)))).unit == (2, 3, 20)


def test_levels_lie_on_one_another_as_in_a_store(tmp_path):
    fine, coarse = voxels((8, 12, 16)), voxels((4, 6, 8))
    location = write(tmp_path / "volume", fine, coarse, offset=(2, 4, 6))
    reader = open_precomputed(f"{location}?level=1")
    np.testing.assert_array_equal(read(reader, reader.grid.extent), coarse)
    expected = open_precomputed(location).grid.level(1)
    assert (reader.grid.shape, reader.grid.spacing_um) == (expected.shape, expected.spacing_um)
    assert reader.grid.origin_um == pytest.approx(expected.origin_um, abs=1e-9)
    assert open_precomputed(location, level=1).grid == reader.grid
    with pytest.raises(MissingError, match="level 2; there are 0 to 1"):
        open_precomputed(f"{location}?level=2")


def test_given_spacing_wins_and_moves_the_origin_with_it(volumes):
    grid = open_precomputed(volumes["uint16"][0], (1.0, 1.0, 1.0)).grid
    assert grid.spacing_um == (1.0, 1.0, 1.0)
    assert grid.origin_um == pytest.approx((3.0, 1.0, 7.0))


# --- where it may lie -----------------------------------------------------------------------------


class Bucket(BaseHTTPRequestHandler):
    """Files of a folder as a web server, an S3 bucket and a Google bucket give them."""

    root: Path
    asked: list
    refuse: list

    def log_message(self, *args):
        pass

    def do_GET(self):
        self.asked.append(self.path)
        key = unquote(urlsplit(self.path).path)
        key = re.sub(r"^/(bucket/|storage/v1/b/bucket/o/)?", "", key)
        path = self.root / key
        if self.refuse:
            return self._send(self.refuse.pop(0), b"")
        if not path.is_file():
            return self._send(404, b"")
        data = path.read_bytes()
        wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if wanted is None:
            return self._send(200, data)
        first, last = map(int, wanted.groups())
        part = f"bytes {first}-{last}/{len(data)}"
        return self._send(206, data[first : last + 1], {"Content-Range": part})

    def _send(self, status, data, headers=None):
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


@pytest.fixture
def bucket(volumes, monkeypatch, tmp_path):
    """A web server over the volumes, and an environment without credentials."""

    class Handler(Bucket):
        root = Path(volumes["uint8"][0].removeprefix("precomputed://file://")).parent
        asked: list = []  # noqa: RUF012
        refuse: list = []  # noqa: RUF012

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128  # a connection that finds no place comes again after a second

    http = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, args=(0.01,))
    thread.start()
    Handler.url = "http://{}:{}".format(*http.server_address)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in AWS_CREDENTIALS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", Handler.url)
    yield Handler
    http.shutdown()
    http.server_close()
    thread.join()


@pytest.mark.parametrize("form", ["uint8", "uint64_labels_sharded"])
@pytest.mark.parametrize("place", ["{url}/{form}", "{url}/{form}/", "s3://bucket/{form}"])
def test_web_servers_and_buckets(bucket, volumes, place, form):
    location = "precomputed://" + place.format(url=bucket.url, form=form)
    reader = open_precomputed(location, retries=QUICK)
    expected = volumes[form.replace("_", " ")][1]
    np.testing.assert_array_equal(read(reader, reader.grid.extent), expected)
    assert any("info" in path for path in bucket.asked)
    assert reader.provenance["location"] == location


def test_plain_folders(volumes):
    location, array = volumes["uint8"]
    reader = open_precomputed(location.replace("file://", ""))
    np.testing.assert_array_equal(read(reader, reader.grid.extent), array)


def test_folders_with_odd_names(tmp_path):
    location = write(tmp_path / "a volume", voxels((2, 3, 4)))
    for name in (location, location.replace(" ", "%20")):
        assert open_precomputed(name).grid.shape == (2, 3, 4)


@pytest.mark.parametrize(
    "location",
    [
        "precomputed://", "precomputed:volume", "precomputed://volume", "precomputed://ftp://a/b",
        "precomputed://file://relative/path", "precomputed://gs://", "precomputed://gs://b/x",
    ],
)  # fmt: skip
def test_addresses_that_are_none(location):
    with pytest.raises(RequestError, match="write it as precomputed://gs://bucket/path"):
        open_precomputed(location)


# --- what goes wrong ------------------------------------------------------------------------------


def test_missing_package_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorstore", None)
    with pytest.raises(RequestError, match=r'pip install "thc_dask\[precomputed\]"'):
        open_precomputed("precomputed://gs://bucket/path")


def test_a_server_that_recovers(bucket, volumes):
    bucket.refuse[:] = [503, 429]
    reader = open_precomputed(f"precomputed://{bucket.url}/uint8", retries=QUICK)
    np.testing.assert_array_equal(read(reader, reader.grid.extent), volumes["uint8"][1])
    assert bucket.refuse == []


def test_a_server_that_does_not(bucket):
    bucket.refuse[:] = [503] * 9
    with pytest.raises(FailureError, match=r"uint8: .*503.*try again later"):
        open_precomputed(f"precomputed://{bucket.url}/uint8", retries=QUICK)
    bucket.refuse[:] = [403] * 9
    with pytest.raises(RequestError, match=r"uint8: no permission.*credentials"):
        open_precomputed(f"precomputed://{bucket.url}/uint8", retries=QUICK)
    bucket.refuse.clear()
    with pytest.raises(MissingError, match="no precomputed volume, no file 'info'"):
        open_precomputed(f"precomputed://{bucket.url}/none", retries=QUICK)


def test_a_server_that_is_not_there():
    with pytest.raises(FailureError, match=r"127.0.0.1:9/x: .*connect.*try again later"):
        open_precomputed("precomputed://http://127.0.0.1:9/x", retries=QUICK)


@pytest.mark.parametrize(
    ("info", "says"),
    [
        ("{", "describes no precomputed volume"),
        ("[]", "describes no precomputed volume"),
        ('{"@type": "neuroglancer_legacy_mesh"}', "describes no precomputed volume: 'scales'"),
        ('{"scales": []}', "describes no precomputed volume: it has no scales"),
        ('{"scales": [{"key": "a"}]}', "copy the volume again"),
    ],
)
def test_descriptions_that_are_none(tmp_path, info, says):
    (tmp_path / "info").write_text(info)
    with pytest.raises(DataError, match=says):
        open_precomputed(f"precomputed://{tmp_path}")


def test_several_channels(tmp_path):
    write(tmp_path, voxels((2, 3, 4)))
    info = json.loads((tmp_path / "info").read_text()) | {"num_channels": 3}
    (tmp_path / "info").write_text(json.dumps(info))
    with pytest.raises(RequestError, match="it has 3 channels; one can be read"):
        open_precomputed(f"precomputed://{tmp_path}")


@pytest.mark.parametrize("damage", [b"", b"short", gzip.compress(b"other", mtime=0)])
def test_damaged_chunks_are_named(tmp_path, damage):
    location = write(tmp_path / "volume", voxels())
    (chunk,) = (tmp_path / "volume").glob("*/20-40_16-32_8-16")
    chunk.write_bytes(damage)
    reader = open_precomputed(location)
    with pytest.raises(DataError, match=r"volume: .*20-40_16-32_8-16.*copy the volume again"):
        read(reader, reader.grid.extent)


@pytest.mark.parametrize(
    ("shape", "dtype", "start"),
    [((9, 9, 9), "uint8", (12, 0, 0)), ((2, 3, 4), "uint16", (0, 0, 0)), ((2, 3), "uint8", (0, 0))],
)
def test_memory_that_does_not_fit(volumes, shape, dtype, start):
    reader = open_precomputed(volumes["uint8"][0])
    with pytest.raises(RequestError, match=r"cannot give .* there are \(20, 37, 53\) uint8"):
        reader.read_into(np.zeros(shape, dtype), start)
