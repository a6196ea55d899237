"""A function as the sink: it may give up the GIL in the middle of a call, and threads that wait for that call go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

from s2pt import Stage2

# In processes of their own: what this is about would hang with the GIL held, beyond the reach of any timeout here.
PEER = """
import threading
from s2pt import Stage2

inside, coming = threading.Event(), threading.Event()

def sink(kind, fields):
    if "tlbi" in kind and not inside.is_set():
        inside.set()
        coming.wait()  # the entry is LOCKED, and the GIL is somebody else's

s2 = Stage2(sink=sink)
s2.map(0, 0x4000, pa=0)
first = threading.Thread(target=s2.unmap, args=(0, 0x1000))
first.start()
inside.wait()
coming.set()
PEER_CALL
first.join()
print("went on")
"""


@pytest.mark.parametrize(
    "call", ["s2.map(0, 0x1000, pa=0x9000)", "list(s2.leaves())", "s2.unmap(0, 0x4000)", "s2.test_young(0, 0x1000)"]
)
def test_a_peer_that_waits_does_not_keep_the_gil(call: str) -> None:
    script = PEER.replace("PEER_CALL", call)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "went on\n"), done.stderr


# The interpreter ends while a table is in use: by threads that nobody waits for, by whoever is told at exit, by what
# keeps the table beyond the modules.
LEAVING = """
import atexit, builtins, sys, threading
from s2pt import Stage2

told, begun = [], threading.Event()

def sink(kind, fields):
    told.append(kind)
    begun.set()

s2 = Stage2(sink=sink)
other = s2.without_waiting()

def work():
    while True:
        s2.map(0, "16MiB", pa=0, largest=3)
        s2.unmap(0, "16MiB")

def last():
    s3 = Stage2(sink=sink)
    s3.map(0, "2MiB", pa=0)
    print("told", bool(s3.unmap(0, "2MiB")))

atexit.register(last)
if "kept" in sys.argv:
    builtins.kept = s2
if "threads" in sys.argv:
    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
else:
    s2.map(0, "16MiB", pa=0, largest=3)
    s2.unmap(0, "16MiB")
begun.wait()
print("leaving", flush=True)
"""


@pytest.mark.parametrize("how", ["", "kept", "threads", "kept threads"])
def test_the_interpreter_ends_while_a_sink_is_called(how: str) -> None:
    command = [sys.executable, "-c", LEAVING, *how.split()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "leaving\ntold True\n", "")


def test_a_sink_uses_more_tables_than_its_thread_remembers():
    """The function runs in the middle of a call, on its thread, and registers that thread with table after table."""
    others = [Stage2() for _ in range(7)]
    answers = set()

    def sink(kind, fields):
        for number, other in enumerate(others):
            other.map(number << 12, 4096, pa=0)
            answers.add(other.unmap(number << 12, 4096))

    tables = [Stage2(sink=sink) for _ in range(7)]
    for _ in range(3):
        for s2 in tables:
            s2.map(0, "2MiB", pa=0)
            s2.map(0, 4096, pa=1 << 30)
            assert s2.unmap(0, "2MiB") == 2 << 20
            s2.drain()
    while tables:
        tables.pop()
    assert answers == {4096}
