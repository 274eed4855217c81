"""One writer at a time where there are no locks: an object that its writer keeps alive.

The writer creates it under the condition that there is none, and writes it anew every few seconds
under the condition that it still is its own. Another process that finds it asks whether the one
that it names has died; where that cannot be known it watches it for a while.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from thc_dask.errors import ExistsError, ThcError, WriteError
from thc_dask.remote import Remote, Version

log = logging.getLogger("thc_dask")

BEAT_S = 10.0  # between two signs of life
DEAD_S = 60.0  # without any, and it is somebody else's turn
# Services refuse requests of clocks that are a quarter of an hour off: what looks older than this
# is older than DEAD_S, whatever the clocks say.
OLD_S = 1800.0


@dataclass
class Lease:
    """The right to write to a store; ``take`` it first, ``give_back`` at the end."""

    objects: Remote
    key: str
    _version: Version | None = None
    _lost: bool = False
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _token: str = field(default_factory=lambda: secrets.token_hex(8))
    _since: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))
    _n_beats: int = 0

    def take(self) -> bool:
        """Take the lease; False where the service knows no conditions, so that nobody can.

        Raises
        ------
        ExistsError
            Another process has it.
        """
        try:
            self._version = self._first()
            # What takes no notice of conditions would let two in at once.
            second = self.objects.exchange(self.key, None, b"{}")
        except NotImplementedError:
            return False
        if second is not None:
            self.objects.delete([self.key])
            log.warning(
                "%s: the service takes no notice of conditional writes, so a second writer would "
                "not be seen; let one process at a time write there", self.objects.url,
            )  # fmt: skip
            return False
        self._thread = threading.Thread(target=self._beat, name="thc-lease", daemon=True)
        self._thread.start()
        return True

    def give_back(self) -> None:
        """Let others write."""
        if self._thread is None:
            return
        self._over.set()
        self._thread.join()
        if not self._lost:
            with suppress(ThcError):  # it dies of itself
                self.objects.delete([self.key])

    def check(self) -> None:
        """Raise WriteError where another process has taken the lease over."""
        if self._lost:
            raise WriteError(
                f"cannot write {self.objects.url}: this process gave no sign of life for "
                f"{DEAD_S:.0f} s, and another has taken over; let that one end"
            )

    def _first(self) -> Version:
        mine = self._sign()
        made = self.objects.exchange(self.key, None, mine)
        while made is None:
            found = self.objects.get_version(self.key)
            if found is not None and not self._is_over(found):
                raise ExistsError(
                    f"{self.objects.url} is being written by another process{_named(found[0])}; "
                    "wait for it to end"
                )
            made = self.objects.exchange(self.key, found[1] if found else None, mine)
        return made

    def _is_over(self, found: tuple[bytes, Version]) -> bool:
        """Whether the writer that a lease names has gone without giving it back."""
        writer = _writer(found[0])
        if _is_dead(writer.get("process")):
            return True
        written = self.objects.last_change(self.key)
        if written is not None and time.time() - written > OLD_S:
            return True
        log.warning(
            "%s is marked as being written%s; waiting up to %.0f s for a sign of life",
            self.objects.url, _named(found[0]), DEAD_S,
        )  # fmt: skip
        deadline = time.monotonic() + DEAD_S
        while time.monotonic() < deadline:
            self._over.wait(min(BEAT_S, DEAD_S) / 4)
            now = self.objects.get_version(self.key)
            if now is None:
                return True
            if now[1] != found[1]:
                return False
        return True

    def _beat(self) -> None:
        seen = time.monotonic()
        while not self._over.wait(BEAT_S):
            self._n_beats += 1
            try:
                # The answer may be lost: then the object is ours all the same.
                version = self.objects.exchange(self.key, self._version, self._sign())
            except (ThcError, NotImplementedError) as error:
                if time.monotonic() - seen > DEAD_S:
                    log.warning("%s: no sign of life could be given: %s", self.objects.url, error)
                    self._lost = True
                    return
                continue
            if version is None:
                self._lost = True
                return
            self._version, seen = version, time.monotonic()

    def _sign(self) -> bytes:
        return json.dumps(
            {
                "host": socket.gethostname(),
                "pid": os.getpid(),
                "since": self._since,
                "process": _process(os.getpid()),
                "token": self._token,
                "beat": self._n_beats,
            }
        ).encode()


def _writer(data: bytes) -> dict[str, Any]:
    try:
        found = json.loads(data)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _named(data: bytes) -> str:
    writer = _writer(data)
    if "host" not in writer:
        return ""
    return f" (number {writer.get('pid')} on {writer['host']}, since {writer.get('since')})"


def _process(pid: int) -> list[Any] | None:
    """Return what tells a process of this machine from all others, None where nothing does."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        space = os.readlink("/proc/self/ns/pid")  # containers number their processes apart
        # The name, in brackets, may hold anything: fields count from behind it.
        started = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (OSError, IndexError):
        return None
    return [boot, space, pid, started]


def _is_dead(process: Any) -> bool:
    """Whether a process was one of this machine and is no more."""
    here = _process(os.getpid())
    if here is None or not isinstance(process, list) or process[:2] != here[:2]:
        return False
    return _process(process[2]) != process
