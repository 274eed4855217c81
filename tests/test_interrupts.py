"""Ctrl-C and SIGTERM, also before a command has begun: one line, exit code 130 or 143."""

import signal
import subprocess
import sys
import threading
from contextlib import suppress

import numpy as np
import pytest
import tifffile

from thc_dask import cli
from thc_dask.cli import interrupts

# A shell may have told its background jobs to ignore Ctrl-C.
HEARING = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
MAIN = "from thc_dask.cli import main; main()"
# What Python says it has imported, one after the other, tells where a command stands.
IMPORTED = "import time:"


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    path = tmp_path_factory.mktemp("stack") / "stack.tif"
    voxels = np.random.default_rng(1).integers(0, 256, (40, 64, 96), np.uint8)
    tifffile.imwrite(path, voxels, photometric="minisblack")
    return path


def interrupt(number, module, *arguments):
    """Send a signal once a module has been imported; return exit code, output and error lines."""
    with subprocess.Popen(
        [sys.executable, "-X", "importtime", "-c", HEARING + MAIN, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        for line in running.stderr:
            if line.rsplit("|", 1)[-1].strip() == module:
                running.send_signal(number)
                break
        else:
            pytest.fail(f"{module} is not imported")
        out, err = running.communicate()
    return running.returncode, out, [x for x in err.splitlines() if not x.startswith(IMPORTED)]


@pytest.mark.parametrize(
    ("number", "code", "said", "module"),
    [(signal.SIGINT, 130, "interrupted", module) for module in
     ("argparse", "thc_dask.cli.arguments", "thc_dask.cli.commands", "numpy.linalg", "numpy",
      "thc_dask.store.write", "thc_dask.convert", "tifffile.tifffile")]
    + [(signal.SIGTERM, 143, "terminated", module) for module in
       ("thc_dask.cli.arguments", "numpy", "tifffile.tifffile")],
)  # fmt: skip
def test_early(number, code, said, module, stack, tmp_path):
    store = tmp_path / "v.ome.zarr"
    options = ["--spacing", "1um", "--chunk", "8", "--shard", "8", "--codec", "zstd:19"]
    found, out, err = interrupt(number, module, "convert", stack, store, *options)
    assert (found, out, len(err)) == (code, "", 1), err
    assert err[0].startswith("thc")
    assert err[0].split(": ")[1].startswith(said)
    assert not (store / "zarr.json").exists()


IGNORED = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); "


def test_a_background_job_goes_on(stack, tmp_path):
    store = tmp_path / "v.ome.zarr"
    command = ["convert", str(stack), str(store), "--spacing", "1um"]
    with subprocess.Popen(
        [sys.executable, "-c", IGNORED + "signal.raise_signal(signal.SIGINT); " + MAIN, *command]
    ) as running:
        assert running.wait() == 0
    assert (store / "zarr.json").exists()


def test_what_imports_make_of_an_interrupt_is_an_interrupt(monkeypatch, capsys):
    """Extension modules turn KeyboardInterrupt into ImportError; Python prints and forgets some."""

    class Odd:
        def __del__(self):
            signal.raise_signal(signal.SIGINT)

    def turned(args):
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy failed to import") from None

    def forgotten(args):
        Odd()
        threading.Event().wait(60)  # which an interrupt ends

    def later(args):
        raise ImportError("an error of today")

    signal.signal(signal.SIGINT, signal.default_int_handler)
    for verb in (turned, forgotten):
        monkeypatch.setattr("thc_dask.cli.commands.info", verb)
        assert cli.run(["info", "s"]) == interrupts.exit_code(signal.SIGINT) == 130
        assert capsys.readouterr() == ("", "thc info: interrupted\n")
    monkeypatch.setattr("thc_dask.cli.commands.info", later)
    with pytest.raises(ImportError, match="of today"):
        cli.run(["info", "s"])
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


STRUCK = """
import signal, sys
from thc_dask import schedule
from thc_dask.cli import interrupts

def strike(frame, event, arg):
    global seen
    seen += 1
    if seen == moment:
        sys.setprofile(None)
        interrupts._raise(signal.SIGINT, frame)

signal.signal(signal.SIGINT, signal.default_int_handler)
interrupts.LATER_S = 0.0005
moment, raised = 0, 0
while True:
    moment, seen = moment + 1, 0
    try:
        with interrupts.raised():
            sys.setprofile(strike)
            found = sorted(schedule.run(abs, range(12)))
            sys.setprofile(None)
    except KeyboardInterrupt:
        raised += 1
    else:
        break  # there are no more moments
assert found == list(range(12)) and raised == moment - 1, (found, raised, moment)
print(raised)
"""


def test_at_whatever_moment_it_comes_work_ends():
    """Behind the taking of a lock, as a thread is started, before each call and after it."""
    done = subprocess.run(
        [sys.executable, "-c", STRUCK], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) > 100


PUT_OFF = """
import signal
from thc_dask.cli import interrupts

def acquire():
    signal.raise_signal(signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
try:
    with interrupts.raised():
        acquire()
except KeyboardInterrupt:
    print(signal.getsignal(signal.SIGINT) is signal.default_int_handler)
"""


def test_one_that_was_put_off_comes_though_the_work_is_done():
    done = subprocess.run(
        [sys.executable, "-c", PUT_OFF], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_one_that_comes_while_another_is_dealt_with():
    """That other one may have come behind the taking of a lock."""
    taken = []

    def acquire():
        signal.raise_signal(signal.SIGINT)
        taken.append("a lock")

    def strike(frame, event, arg):
        if frame.f_code is interrupts._among_locks.__code__:
            sys.setprofile(None)
            interrupts._raise(signal.SIGINT, frame)

    def struck():
        with interrupts.raised():
            sys.setprofile(strike)
            acquire()
            threading.Event().wait(60)  # which an interrupt ends

    signal.signal(signal.SIGINT, signal.default_int_handler)
    with pytest.raises(KeyboardInterrupt):
        struck()
    assert taken == ["a lock"]


STUCK = """
import sys, threading, time
from thc_dask.cli import commands, main

def stuck(args):
    lock = threading.Condition(threading.Lock())
    lock.acquire()
    threading.Thread(target=tell, args=(threading.get_ident(),), daemon=True).start()
    with lock:  # for good, as a fault of whatever library might have it
        pass

def tell(who):
    while sys._current_frames()[who].f_code.co_qualname != "Condition.__enter__":
        time.sleep(0.001)  # before that an interrupt would be raised
    print("waiting", flush=True)

commands.info = stuck
main(["info", "s"])
"""


def test_what_hears_of_none_ends_too():
    with subprocess.Popen(
        [sys.executable, "-c", HEARING + STUCK],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as running:
        assert running.stdout.readline() == "waiting\n"
        for _ in range(100):  # one after the other, as an impatient user does
            running.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                running.wait(timeout=0.1)
                break
        running.kill()
        out, err = running.communicate()
    assert (running.returncode, out, err) == (130, "", "thc: interrupted\n")
