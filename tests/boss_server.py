"""A bossDB on loopback: speaks its protocol from arrays in memory, and breaks when told to.

    with BossServer() as server:
        server.add("prasad/prasad2020/image", array, spacing=(1170,) * 3)
        server.fail(429, times=2, retry_after=1)

Rows of the protocol: collections, experiments, channels, coordinate frames, downsample status and
cutouts (GET and POST, blosc). Axes of arrays are z, y, x, those of addresses x, y, z.
"""

import json
import re
import threading
from collections import deque
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import blosc
import numpy as np

from thc_dask.grid import Extent

CUBOID = (16, 512, 512)
MOST_BYTES = 520 * 2**20
NAME = r"([\w-]+)"
RANGE = r"(\d+):(\d+)"


@dataclass
class Channel:
    """What the server holds of a channel."""

    levels: list
    """Arrays (z, y, x), finest first; level 0 begins at ``start``."""
    start: tuple
    spacing: tuple
    """(z, y, x), in ``unit``."""
    unit: str
    hierarchy: str
    kind: str
    status: str
    more: dict
    """What replaces parts of its description."""

    @property
    def dtype(self):
        return self.levels[0].dtype


@dataclass(frozen=True)
class Request:
    """What was asked, and answered."""

    method: str
    path: str
    level: int | None
    extent: Extent | None
    """Of a cutout, in coordinates of its level."""
    status: int
    n_bytes: int
    """Of voxels, before compression."""
    client: int
    """Port of the client: one for each connection."""
    headers: dict = field(repr=False)


def halve(array, kind, hierarchy):
    """Return the next level as the server makes it: every other plane, means in the plane."""
    planes = array[::2] if hierarchy == "isotropic" else array
    padded = np.pad(planes, [(0, 0), *((0, n % 2) for n in array.shape[1:])], mode="edge")
    if kind == "annotation":
        return np.ascontiguousarray(padded[:, ::2, ::2])
    parts = [padded[:, y::2, x::2].astype(np.uint64) for y in (0, 1) for x in (0, 1)]
    return (sum(parts) // 4).astype(array.dtype)


class BossServer:
    """Channels, faults, and a record of all requests."""

    def __init__(self):
        self.channels = {}
        self.requests = []
        self.denied = set()
        """Channels that nobody may read."""
        self.tokens = {"public"}
        self.send_as = None
        """Type in which cutouts are sent, whatever the channel's."""
        self.barrier = None
        """A ``threading.Barrier`` that every cutout waits at: so many must come at once."""
        self.gate = threading.Event()
        """Clear it, and cutouts that do not fail are answered when it is set again."""
        self.gate.set()
        self.latency_s = 0.0
        self.n_at_once = 0
        """Most cutouts that were under way at the same time."""
        self._faults = deque()
        self._under_way = 0
        self._lock = threading.Lock()
        self._closing = threading.Event()

    def __enter__(self):
        server = self

        class Handler(_Handler):
            boss = server

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128  # a connection that finds no place comes again after a second

        self._http = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._closing.set()
        self.gate.set()
        if self.barrier is not None:
            self.barrier.abort()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    @property
    def host(self):
        return "{}:{}".format(*self._http.server_address)

    @property
    def environment(self):
        """What the environment of a client holds."""
        return {"INTERN_PROTOCOL": "http", "INTERN_HOST": self.host, "INTERN_TOKEN": "public"}

    def add(
        self, path, array, *, spacing=(1, 1, 1), unit="micrometers", start=(0, 0, 0), n_levels=1,
        hierarchy="isotropic", kind=None, status=None, **more,
    ):  # fmt: skip
        """Hold a channel; ``more`` replaces parts of its description."""
        kind = kind or ("annotation" if array.dtype == np.uint64 else "image")
        levels = [array]
        while len(levels) < n_levels:
            levels.append(halve(levels[-1], kind, hierarchy))
        status = status or ("DOWNSAMPLED" if n_levels > 1 else "NOT_DOWNSAMPLED")
        self.channels[path] = Channel(levels, start, spacing, unit, hierarchy, kind, status, more)
        return f"bossdb://{path}"

    # --- faults: each is spent on the next cutouts, in the order in which they were asked for ----

    def fail(self, status, times=1, retry_after=None, message="It is throttled."):
        """Answer with an HTTP error."""
        self._faults.extend([("fail", status, retry_after, message)] * times)

    def truncate(self, times=1):
        """Send a compressed body that ends early, and say that it is whole."""
        self._faults.extend([("truncate",)] * times)

    def cut_off(self, times=1):
        """Hang up in the middle of a body."""
        self._faults.extend([("cut_off",)] * times)

    def hang_up(self, times=1):
        """Hang up before the answer."""
        self._faults.extend([("hang_up",)] * times)

    def stall(self, times=1):
        """Answer nothing until the server is closed."""
        self._faults.extend([("stall",)] * times)

    def next_fault(self):
        with self._lock:
            return self._faults.popleft() if self._faults else (None,)

    @property
    def n_faults_left(self):
        return len(self._faults)

    # --- what was asked --------------------------------------------------------------------------

    @property
    def cutouts(self):
        """Every GET of voxels."""
        return [r for r in self.requests if r.extent is not None and r.method == "GET"]

    @property
    def answered(self):
        """The boxes whose voxels were sent whole."""
        return [r.extent for r in self.cutouts if r.n_bytes]

    @property
    def n_bytes(self):
        """Voxels sent, in bytes before compression."""
        return sum(r.n_bytes for r in self.cutouts)

    def record(self, request):
        with self._lock:
            self.requests.append(request)

    def enter_cutout(self):
        with self._lock:
            self._under_way += 1
            self.n_at_once = max(self.n_at_once, self._under_way)

    def leave_cutout(self):
        with self._lock:
            self._under_way -= 1

    def wait(self, seconds):
        """Wait, but not beyond the server's end."""
        self._closing.wait(seconds)


class Refusal(Exception):
    """An HTTP error, with the code of bossDB's own."""

    def __init__(self, status, code, message):
        super().__init__(message)
        self.status, self.code = status, code


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Otherwise body and header go out as two packets, and the second waits for an acknowledgement.
    wbufsize = -1
    disable_nagle_algorithm = True
    boss: BossServer

    def log_message(self, *args):
        pass

    def do_GET(self):
        self._answer("GET")

    def do_POST(self):
        self._answer("POST")

    def _answer(self, method):
        self._asked = {"level": None, "extent": None}
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length)
        try:
            url = urlsplit(self.path)
            if self.headers.get("Authorization", "").removeprefix("Token ") not in self.boss.tokens:
                raise Refusal(401, 3004, "Invalid token.")
            self._route(method, url.path, parse_qs(url.query), body)
        except Refusal as error:
            said = {"status": error.status, "code": error.code, "message": str(error)}
            self._send(error.status, json.dumps(said).encode())
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _route(self, method, path, query, body):
        routes = {
            rf"/v1/collection/{NAME}/experiment/{NAME}/channel/{NAME}": self._channel,
            rf"/v1/collection/{NAME}/experiment/{NAME}": self._experiment,
            rf"/v1/collection/{NAME}": self._collection,
            rf"/v1/collection/{NAME}/experiment/": self._experiments,
            r"/v1/collection/": self._collections,
            rf"/v1/coord/{NAME}": self._frame,
            rf"/v1/downsample/{NAME}/{NAME}/{NAME}/?": self._downsample,
        }
        cutout = re.fullmatch(
            rf"/v1/cutout/{NAME}/{NAME}/{NAME}/(\d)/{RANGE}/{RANGE}/{RANGE}/?", path
        )
        if cutout:
            names, numbers = cutout.groups()[:3], [int(n) for n in cutout.groups()[3:]]
            self._cutout(method, "/".join(names), *numbers, body=body, query=query)
            return
        for pattern, answer in routes.items():
            found = re.fullmatch(pattern, path)
            if found and method == "GET":
                self._send(200, json.dumps(answer(*found.groups())).encode())
                return
        raise Refusal(404, 1000, f"{path} is no address.")

    def _names(self, depth, *within):
        """Return the names below a collection or experiment, sorted."""
        paths = [path.split("/") for path in self.boss.channels]
        names = {parts[depth] for parts in paths if parts[:depth] == list(within)}
        if not names and depth:
            raise Refusal(404, 4000, f"{within[-1]} does not exist.")
        return sorted(names)

    def _collections(self):
        return {"collections": self._names(0)}

    def _collection(self, name):
        found = {"experiments": self._names(1, name)}
        return {"name": name, "public": True, "description": "", "creator": "lab", **found}

    def _experiments(self, collection):
        return {"experiments": self._names(1, collection)}

    def _experiment(self, collection, name):
        names = self._names(2, collection, name)
        first = self.boss.channels[f"{collection}/{name}/{names[0]}"]
        n_levels = max(len(self._at(collection, name, n).levels) for n in names)
        return {
            "channels": names, "name": name, "public": True, "description": "",
            "collection": collection, "coord_frame": f"{collection}_{name}",
            "num_hierarchy_levels": n_levels, "hierarchy_method": first.hierarchy,
            "num_time_samples": 1, "time_step": None, "time_step_unit": "", "creator": "lab",
        }  # fmt: skip

    def _at(self, collection, experiment, name):
        found = self.boss.channels.get(f"{collection}/{experiment}/{name}")
        if found is None:
            raise Refusal(404, 4000, f"{name} does not exist.")
        if f"{collection}/{experiment}/{name}" in self.boss.denied:
            raise Refusal(403, 3001, "You do not have the permission to read.")
        return found

    def _channel(self, collection, experiment, name):
        channel = self._at(collection, experiment, name)
        return {
            "name": name, "public": True, "description": "", "experiment": experiment,
            "default_time_sample": 0, "type": channel.kind, "base_resolution": 0,
            "datatype": channel.dtype.name, "creator": "lab", "sources": [], "related": [],
            "downsample_status": channel.status, "storage_type": "spdb", "bucket": None,
            "cv_path": None, **channel.more,
        }  # fmt: skip

    def _frame(self, name):
        for path, channel in self.boss.channels.items():
            if name == "_".join(path.split("/")[:2]):
                found = {"name": name, "description": "", "voxel_unit": channel.unit}
                shape = channel.levels[0].shape
                for axis, a, n, p in zip("zyx", channel.start, shape, channel.spacing, strict=True):
                    found |= {f"{axis}_start": a, f"{axis}_stop": a + n, f"{axis}_voxel_size": p}
                return found
        raise Refusal(404, 4000, f"{name} does not exist.")

    def _downsample(self, collection, experiment, name):
        channel = self._at(collection, experiment, name)
        extent, size, cuboid = {}, {}, {}
        for k, level in enumerate(channel.levels):
            deep = 2**k if channel.hierarchy == "isotropic" else 1
            z, y, x = channel.spacing
            size[str(k)] = [x * 2**k, y * 2**k, z * deep]
            stop = (
                level.shape if k else tuple(map(sum, zip(channel.start, level.shape, strict=True)))
            )
            extent[str(k)] = list(stop[::-1])
            cuboid[str(k)] = list(CUBOID[::-1])
        return {
            "status": channel.status, "num_hierarchy_levels": len(channel.levels),
            "voxel_size": size, "extent": extent, "cuboid_size": cuboid,
        }  # fmt: skip

    def _cutout(self, method, path, level, x0, x1, y0, y1, z0, z1, body, query):
        extent = Extent((z0, y0, x0), (z1, y1, x1))
        self._asked = {"level": level, "extent": extent}
        channel = self._at(*path.split("/"))
        itemsize = channel.dtype.itemsize
        # Of 64-bit voxels the real one takes four times as many.
        if extent.n_vox * itemsize // (4 if itemsize == 8 else 1) > MOST_BYTES:
            raise Refusal(413, 2000, "Cutout request is over 500MB when uncompressed.")
        native = Extent((0, 0, 0), channel.levels[0].shape).shift(channel.start)
        if not extent.n_vox or not native.contains(extent):
            raise Refusal(400, 1001, "Invalid cutout args.")
        if method == "POST":
            self._take(channel, level, extent, body)
            return
        if query.get("access-mode") != ["no-cache"]:
            raise Refusal(400, 1001, "Reading much, skip the cache.")
        self.boss.enter_cutout()
        try:
            self._give(channel, level, extent)
        finally:
            self.boss.leave_cutout()

    def _take(self, channel, level, extent, body):
        voxels = np.frombuffer(blosc.decompress(body), channel.dtype).reshape(extent.shape)
        shift = tuple(-a for a in channel.start)
        channel.levels[level][extent.shift(shift).slices] = voxels
        self._send(201, b"")

    def _give(self, channel, level, extent):
        if self.boss.barrier is not None:
            self.boss.barrier.wait(20)
        fault, *details = self.boss.next_fault()
        if fault == "stall":
            self.boss.wait(None)
        if fault in ("stall", "hang_up"):
            self._note(0, 0)
            self.close_connection = True
            return
        if fault == "fail":
            self._fail(*details)
            return
        self.boss.gate.wait()
        if self.boss.latency_s:
            self.boss.wait(self.boss.latency_s)
        voxels = self._voxels(channel, level, extent)
        if self.boss.send_as is not None:
            voxels = voxels.astype(self.boss.send_as)
        body = blosc.compress(np.ascontiguousarray(voxels), typesize=8 * channel.dtype.itemsize)
        if fault == "truncate":
            self._send(200, body[: len(body) // 2], noted=0)
        else:
            cut = len(body) // 2 if fault == "cut_off" else None
            self._send(200, body, voxels.nbytes, "application/blosc", cut)

    def _voxels(self, channel, level, extent):
        """Return voxels; zeros beyond the end of a coarser level, which the server lets pass."""
        array = channel.levels[level]
        here = extent.shift(tuple(-a for a in channel.start))
        out = np.zeros(extent.shape, array.dtype)
        have = here.intersect(Extent((0, 0, 0), array.shape))
        out[have.shift(tuple(-a for a in here.start)).slices] = array[have.slices]
        return out

    def _fail(self, status, retry_after, message):
        said = {"status": status, "code": 3004, "message": message}
        more = {} if retry_after is None else {"Retry-After": str(retry_after)}
        self._send(status, json.dumps(said).encode(), more=more)

    def _send(self, status, body, noted=0, kind="application/json", cut=None, more=None):
        """Send an answer; with ``cut`` only that many bytes of it."""
        # Noted first: whoever has the answer may look at once.
        self._note(status if cut is None else 0, noted if cut is None else 0)
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[:cut])
        self.wfile.flush()
        if cut is not None:
            self.close_connection = True

    def _note(self, status, n_bytes):
        self.boss.record(
            Request(
                self.command, self.path, **self._asked, status=status, n_bytes=n_bytes,
                client=self.client_address[1], headers=dict(self.headers),
            )
        )  # fmt: skip


class Sparse:
    """An array of zeros that is too large for memory, but for a few boxes."""

    def __init__(self, shape, dtype, boxes):
        self.shape, self.dtype = shape, np.dtype(dtype)
        self._boxes = boxes
        """What to fill each ``Extent`` with: a number, or an array of its shape."""

    def __getitem__(self, slices):
        here = Extent(tuple(s.start for s in slices), tuple(s.stop for s in slices))
        out = np.zeros(here.shape, self.dtype)
        for box, value in self._boxes.items():
            both = box.intersect(here)
            if both.n_vox:
                full = np.broadcast_to(value, box.shape)
                part = full[both.shift(tuple(-a for a in box.start)).slices]
                out[both.shift(tuple(-a for a in here.start)).slices] = part
        return out
