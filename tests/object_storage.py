"""Real servers of object storage on loopback: where they are installed, started, ended.

``make servers`` installs them in an environment of their own, ``.venv-servers``.
"""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
KEY, SECRET = "tester", "tester-of-stores"
SETTINGS = ("AWS_", "GOOGLE_", "AZURE_", "CLOUDSDK_")


def program(name):
    """Return the path of a server's program; skip the test without it, fail in CI."""
    folder = Path(os.environ.get("THC_TEST_SERVERS", ROOT / ".venv-servers"))
    for path in (folder / "bin" / name, folder / name):
        if path.is_file():
            return str(path)
    reason = f"{folder} has no {name}; run: make servers"
    if os.environ.get("CI"):
        pytest.fail(reason)
    return pytest.skip(reason)


def free_ports(n):
    """Return ports of loopback that nobody uses."""
    sockets = [socket.socket() for _ in range(n)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


@contextmanager
def moto():
    """Yield the URL of moto's server, with the bucket ``bucket``; it asks nobody for a key."""
    [port] = free_ports(1)
    url = f"http://127.0.0.1:{port}"
    with running([program("moto_server"), "-H", "127.0.0.1", "-p", str(port)], url):
        _request("PUT", f"{url}/bucket")
        yield url


@contextmanager
def seaweed(folder, *users, volumes=8):
    """Yield the URL of a SeaweedFS server on a folder; it makes the buckets that are written to.

    It knows the key of these tests, which may do anything, and ``users``. There is room for
    ``volumes`` of 256 MB.
    """
    ports = free_ports(7)
    names = ("s3.port", "s3.port.grpc", "master.port", "master.port.grpc", "volume.port",
             "volume.port.grpc", "filer.port", "filer.port.grpc")  # fmt: skip
    ports += free_ports(1)
    keys = [{"accessKey": KEY, "secretKey": SECRET}]
    known = [{"name": "tester", "credentials": keys, "actions": ["Admin"]}, *users]
    config = Path(folder, "s3.json")
    config.write_text(json.dumps({"identities": known}))
    command = [
        program("weed"), "server", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", f"-dir={folder}",
        "-s3", f"-s3.config={config}", "-master.volumeSizeLimitMB=256", f"-volume.max={volumes}",
        "-s3.port.iceberg=0", "-s3.port.lance=0",  # ports that two servers at once would share
        *(f"-{name}={port}" for name, port in zip(names, ports, strict=True)),
    ]  # fmt: skip
    url = f"http://127.0.0.1:{ports[0]}"
    with running(command, url):
        yield url


@contextmanager
def running(command, url, timeout_s=60):
    """Run a server until the block ends; enter the block once it answers at ``url``."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", *SETTINGS))}
    process = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment
    )
    try:
        deadline = time.monotonic() + timeout_s
        while not _answers(url):
            assert process.poll() is None, f"{command[0]} has ended with {process.poll()}"
            assert time.monotonic() < deadline, f"{command[0]} does not answer at {url}"
        yield
    finally:
        process.kill()
        process.wait()


def _answers(url):
    try:
        _request("GET", url)
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
    return True


def _request(method, url):
    request = urllib.request.Request(url, method=method)
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read()


def point_at(monkeypatch, url, **settings):
    """Let clients of S3 talk to a server on loopback, and look for keys nowhere else."""
    for name in list(os.environ):
        if name.startswith(SETTINGS):
            monkeypatch.delenv(name)
    defaults = {
        "AWS_ENDPOINT_URL": url,
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
    }
    for name, value in (defaults | settings).items():
        if value is None:
            monkeypatch.delenv(name, raising=False)
        else:
            monkeypatch.setenv(name, value)


def impatient(monkeypatch):
    """Let clients try again soon, and not for long."""
    from datetime import timedelta

    from thc_dask.remote import client

    pauses = {"init_backoff": timedelta(milliseconds=1), "max_backoff": timedelta(milliseconds=2)}
    monkeypatch.setattr(client, "RETRIES", {"max_retries": 2, "backoff": {**pauses, "base": 2}})
    # Settings are part of what clients are kept by: one of its own, then none of it is left.
    monkeypatch.setenv("AWS_TEST_OF_PATIENCE", "none")
