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


@pytest.mark.slow
def test_many_interpreters_end_at_once():
    """With more processes than cores a thread is ended at any point of its call; most of these aborted."""
    command = [sys.executable, "-c", LEAVING, "kept", "threads"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(8)]
    ends = [(one.communicate(timeout=120), one.returncode) for one in running]
    assert ends == [(("leaving\ntold True\n", ""), 0)] * 8


# Whoever was in the function at the end comes out, and finishes his call: what is done to the table after that, by what
# Python destroys last, meets no entry that is held by nobody.
LAST_WORDS = """
import builtins, os, threading, time
from s2pt import Stage2

begun = threading.Event()

def sink(kind, fields):
    if "tlbi" in kind:
        begun.set()
        time.sleep(0.05)  # in the middle of the call, with an entry LOCKED

class Last:
    def __init__(self):
        self.table = Stage2(sink=sink)
        self.write = os.write

    def __del__(self):
        self.table.unmap(0, 1 << 30)
        self.write(1, b"whole\\n")

def work(table):
    while True:
        table.map(0, 4096, pa=0)
        table.unmap(0, 4096)

builtins.last = Last()
threading.Thread(target=work, args=(builtins.last.table,), daemon=True).start()
begun.wait()
"""

# The thread does not come out of the function: it is left there.
STUCK = """
import sys, threading
from s2pt import Stage2

begun = threading.Event()

def sink(kind, fields):
    if "tlbi" in kind:
        begun.set()
        while "spin" in sys.argv:
            pass
        threading.Event().wait()

s2 = Stage2(sink=sink)
s2.map(0, 4096, pa=0)
threading.Thread(target=s2.unmap, args=(0, 4096), daemon=True).start()
begun.wait()
"""

# The child has one thread, which is in the function; the other one that was is not there, and nobody waits for it.
FORKED = """
import os, sys, threading
from s2pt import Stage2

inside, forked = threading.Event(), []

def sink(kind, fields):
    if threading.current_thread() is not threading.main_thread():
        inside.set()
        threading.Event().wait()
    elif "tlbi" in kind and not forked:
        forked.append(os.fork())

other = Stage2(sink=sink)
threading.Thread(target=other.map, args=(0, 4096, 0), daemon=True).start()
inside.wait()
s2 = Stage2(sink=sink)
s2.map(0, 4096, pa=0)
assert s2.unmap(0, 4096) == 4096
if forked[0] == 0:
    sys.exit(7)
print(os.waitstatus_to_exitcode(os.waitpid(forked[0], 0)[1]), flush=True)
"""


def ended(script: str, *words: str) -> tuple[int, str, str]:
    command = [sys.executable, "-c", script, *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def test_a_call_is_finished_before_the_interpreter_goes():
    assert ended(LAST_WORDS) == (0, "whole\n", "")


@pytest.mark.parametrize("how", ["wait", "spin"])
def test_a_function_that_never_returns_does_not_keep_the_interpreter(how: str) -> None:
    assert ended(STUCK, how) == (0, "", "")


def test_the_child_of_a_fork_ends_by_itself():
    assert ended(FORKED) == (0, "7\n", "")


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
