"""A proxy on loopback in front of an HTTP server: counts requests, and breaks some of them.

Which request breaks, and how, is drawn from a seed and the number of the request.
"""

import asyncio
import random
import re
import socket
import struct
import threading
from collections import Counter
from contextlib import contextmanager
from urllib.parse import parse_qs, urlsplit

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>SlowDown</Code>'
    b"<Message>Please reduce your request rate.</Message></Error>"
)
FAULTS = ("slow down", "reset", "lost answer", "timeout", "truncated")
MOST_BYTES = 2**20  # of a header


class FaultProxy:
    """Give its ``url`` to a client; ``faults`` maps kinds of ``FAULTS`` to shares of requests."""

    def __init__(self, upstream, seed=0, **faults):
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self.seed, self.faults = seed, {k.replace("_", " "): v for k, v in faults.items()}
        assert set(self.faults) <= set(FAULTS)
        self.answer = None
        """Status, headers and body given to every request instead of the server's, if not None."""
        self.deaf = False
        """Whether the server is not to hear of conditions."""
        self.requests = []
        """Method, path and query of each request that came."""
        self.broken = Counter()
        """How many requests were broken, by kind."""
        self.open = set()
        """The writers of connections that are being served."""
        self._lock = threading.Lock()

    def counts(self):
        """Return how many requests came by verb; listings apart from other GETs."""
        found = Counter()
        for method, _, query in self.requests:
            listing = method == "GET" and "list-type" in query
            found["LIST" if listing else method] += 1
        return dict(sorted(found.items()))

    def forget(self):
        """Begin to count anew."""
        with self._lock:
            self.requests.clear()
            self.broken.clear()

    def draw(self, method):
        """Return how the next request is to break, None where it is not."""
        with self._lock:
            n = len(self.requests)
            drawn = random.Random(f"{self.seed}/{n}").random()
            for kind, share in self.faults.items():
                drawn -= share
                if drawn < 0:
                    # What has no body to cut loses its answer.
                    kind = "lost answer" if kind == "truncated" and method != "GET" else kind
                    self.broken[kind] += 1
                    return kind
        return None

    async def serve(self, reader, writer):
        """Pass the requests of one connection on."""
        upstream = None
        self.open.add(writer)
        try:
            while head := await _head(reader):
                method, target, length = head[0]
                parts = urlsplit(target)
                kind = self.draw(method)
                self.requests.append((method, parts.path, parse_qs(parts.query, True)))
                body = await reader.readexactly(length)
                if self.answer is not None:
                    _answer(writer, method, *self.answer)
                    continue
                if kind == "reset":
                    return _reset(writer)
                if kind == "slow down":
                    _answer(writer, method, 503, {"content-type": "application/xml"}, SLOW_DOWN)
                    continue
                if kind == "timeout":
                    await reader.read(1)  # until the client has had enough
                    return None
                if upstream is None:
                    upstream = await asyncio.open_connection(*self._upstream, limit=MOST_BYTES)
                raw = (
                    re.sub(rb"\r\nif-[a-z-]+:[^\r]*", b"", head[1], flags=re.I)
                    if self.deaf
                    else head[1]
                )
                upstream[1].write(raw + body)
                await upstream[1].drain()
                (_, status, length), raw = await _head(upstream[0])
                if method == "HEAD" or status in ("204", "304"):
                    length = 0
                answer = await upstream[0].readexactly(length)
                if kind == "lost answer":
                    return _reset(writer)
                if kind == "truncated":
                    writer.write(raw + answer[: length // 2])
                    await writer.drain()
                    return None
                writer.write(raw + answer)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            self.open.discard(writer)
            for stream in (writer, upstream[1] if upstream else None):
                if stream is not None:
                    stream.close()
        return None


async def _head(reader):
    """Return the first line's parts with the body's length, and the raw head; None at the end."""
    try:
        raw = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError as error:
        if error.partial:
            raise
        return None
    first, *lines = raw.decode("latin-1").split("\r\n")
    headers = {k.lower(): v.strip() for k, _, v in (line.partition(":") for line in lines)}
    assert "transfer-encoding" not in headers, "only bodies of known length pass here"
    one, two, *_ = first.split(" ")
    return (one, two, int(headers.get("content-length", 0))), raw


def _answer(writer, method, status, headers, body):
    lines = [f"HTTP/1.1 {status} -", f"content-length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    writer.write("\r\n".join([*lines, "", ""]).encode() + (b"" if method == "HEAD" else body))


def _reset(writer):
    """Close a connection as a machine does that has lost it."""
    writer.get_extra_info("socket").setsockopt(
        socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
    )
    writer.transport.abort()


@contextmanager
def fault_proxy(upstream, seed=0, **faults):
    """Yield a running ``FaultProxy`` with its ``url``; it ends with the block."""
    proxy, loop, started = FaultProxy(upstream, seed, **faults), asyncio.new_event_loop(), []

    async def start():
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, limit=MOST_BYTES)
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return server

    async def stop():
        started[0].close()
        for writer in list(proxy.open):
            writer.transport.abort()
        while proxy.open:
            await asyncio.sleep(0)
        loop.stop()

    started.append(loop.run_until_complete(start()))
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop)
        thread.join(10)
        loop.close()
