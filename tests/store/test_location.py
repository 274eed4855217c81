import subprocess
import sys

import pytest

from tests.assertions import new_store, read_files
from thc_dask.errors import ExistsError, MissingError, RequestError, WriteError
from thc_dask.store.foreign import Foreign
from thc_dask.store.location import Folder, describe, locate, require


@pytest.fixture(params=["folder", "url"])
def location(request, tmp_path):
    """A place without objects."""
    return locate(tmp_path / "v" if request.param == "folder" else new_store())


def test_a_path_is_a_folder_and_anything_else_a_url(tmp_path):
    for text in (tmp_path, str(tmp_path), f"{tmp_path}/", f"file://{tmp_path}"):
        found = locate(text)
        assert isinstance(found, Folder)
        assert found.url == str(tmp_path)
    assert isinstance(locate("memory://a/b/"), Foreign)
    with pytest.raises(RequestError, match="not an empty name"):
        locate("")
    with pytest.raises(RequestError, match="store nowhere://x"):
        locate("nowhere://x")


def test_objects_are_there_whole_or_not_at_all(location):
    assert location.get("a/b") is location.size("a/b") is location.get_range("a/b", 0, 2) is None
    assert location.keys("") == []
    location.put("a/b", b"0123456789")
    location.put("a/c", memoryview(b""), durable=False)
    location.put("d", bytearray(b"x"))
    assert location.keys("") == ["a/b", "a/c", "d"]
    assert location.keys("a") == ["a/b", "a/c"]
    assert location.get("a/b") == b"0123456789"
    assert [location.size(key) for key in ("a/b", "a/c", "d")] == [10, 0, 1]
    location.put("a/b", b"again")
    assert location.get("a/b") == require(location, "a/b") == b"again"
    with pytest.raises(MissingError, match="/a/e does not exist; the store is incomplete"):
        require(location, "a/e")


@pytest.mark.parametrize(
    ("start", "n", "expected"),
    [
        (0, 3, b"012"), (7, 3, b"789"), (7, 9, b"789"), (3, 0, b""), (-4, 4, b"6789"),
        (-4, 2, b"67"), (-99, 99, b"0123456789"),
    ],
)  # fmt: skip
def test_ranges(location, start, n, expected):
    location.put("a", b"0123456789")
    assert location.get_range("a", start, n) == expected


def test_an_object_in_parts_appears_when_it_is_whole(location):
    sink = location.sink("0/c/0")
    parts = [bytes([i % 256]) * (i % 5) for i in range(1500)]
    sink.append(parts[:700])
    sink.append([memoryview(b"".join(parts[700:]))])
    assert location.get("0/c/0") is None
    sink.commit()
    assert location.get("0/c/0") == b"".join(parts)
    broken = location.sink("0/c/1")
    broken.append([b"half"])
    broken.abort()
    broken.abort()
    assert location.keys("") == ["0/c/0"]


def test_objects_are_removed_and_moved(location):
    for key in ("a/b/1", "a/b/2", "a/c", "ab"):
        location.put(key, key.encode())
    location.delete("a/b")
    location.delete("nothing")
    location.put("a/d", b"")
    location.remove("a/d")
    location.remove("a/d")
    assert location.keys("") == ["a/c", "ab"]
    location.move("a/c", "ab")
    location.move("ab", "x/y/z")
    assert location.keys("") == ["x/y/z"]
    assert location.get("x/y/z") == b"a/c"


def test_workers_may_stand_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    here = locate("v")
    here.put("a", b"1")
    monkeypatch.chdir("/")
    assert here.get("a") == b"1"
    assert read_files(tmp_path) == {"v/a": b"1"}


def test_one_writer_at_a_time(tmp_path):
    first, second = locate(tmp_path / "v"), locate(tmp_path / "v")
    with first.lock(), pytest.raises(ExistsError, match="is being written by another process"):
        second.lock().__enter__()
    with second.lock():
        pass


def test_a_path_through_a_file_cannot_be_written(tmp_path):
    (tmp_path / "v").write_text("a file")
    with pytest.raises(WriteError, match="a part of the path is a file; choose another target"):
        locate(tmp_path / "v").put("0/zarr.json", b"{}")


TOO_LARGE = """
import resource, signal, sys
from thc_dask.errors import WriteError
from thc_dask.store.location import locate
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
location = locate(sys.argv[1])
location.put("a", b"x" * 1000)
try:
    location.put("a", b"y" * 1001)
except WriteError as error:
    print(error)
"""


def test_what_cannot_be_written_whole_leaves_what_was(tmp_path):
    """The system refuses the last byte, as it would on a full disk."""
    found = subprocess.run(
        [sys.executable, "-c", TOO_LARGE, str(tmp_path / "v")], capture_output=True, text=True
    )
    assert found.stdout == f"cannot write {tmp_path}/v/a: File too large\n"
    assert read_files(tmp_path) == {"v/a": b"x" * 1000}


def test_describe_adds_up_files(tmp_path):
    location = locate(tmp_path)
    for key in ("0/a", "0/b", "zarr.json"):
        location.put(key, b"123")
    assert describe(location) == {
        "0": {"n_files": 2, "n_bytes": 6},
        "zarr.json": {"n_files": 1, "n_bytes": 3},
    }
