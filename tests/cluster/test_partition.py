"""A worker that is cut off from its scheduler, in network namespaces: the others do its work."""

import os
import subprocess
import sys

from tests.assertions import read_files
from tests.clusters import (
    OUR,
    PATH,
    dask_scheduler,
    dask_worker,
    same_image,
    two_networks,
)

QUICK = {
    # Nothing shorter is allowed for what is silent, and it is the time that this test takes.
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__TCP": "11s",
    "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "3s",
}
CLIENT = """\
import sys
from thc_dask import convert
from thc_dask.cluster import running

def watch(done, total):
    if 4 * done >= total and not cut:
        cut.append(print("cut", flush=True) or input())

cut = []
with running(f"scheduler-file:{sys.argv[1]}") as client:
    client.wait_for_workers(2)
    convert("phantom:32,64,96", sys.argv[2], chunk=(8, 8, 8), shard=(16, 16, 16), levels=3,
            progress=watch)
    print("workers", len(client.nthreads()))
"""


def test_a_worker_that_is_cut_off_is_done_without(expected, tmp_path, monkeypatch):
    for name, value in QUICK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PATH", PATH)
    store, script = tmp_path / "v.ome.zarr", tmp_path / "client.py"
    script.write_text(CLIENT)
    with (
        two_networks() as ((here, there), (first, second), link),
        dask_scheduler(tmp_path, prefix=here, host=first) as (_, file),
        dask_worker(tmp_path, file, prefix=here, host=first, name="near"),
        dask_worker(tmp_path, file, prefix=there, host=second, name="far"),
        subprocess.Popen(
            [*here, sys.executable, script, file, store], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=os.environ | OUR,
        ) as client,
    ):  # fmt: skip
        assert client.stdout.readline() == "cut\n", client.stderr.read()
        subprocess.run([*link, "down"], check=True)
        out, err = client.communicate("\n", timeout=120)
        subprocess.run([*link, "up"], check=True)
        assert client.returncode == 0, err
        assert out == "workers 1\n"
    assert same_image(read_files(store), expected[1])
