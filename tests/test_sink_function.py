"""A function as the sink: it may give up the GIL in the middle of a call, and threads that wait for that call go on."""

from __future__ import annotations

import subprocess
import sys

import pytest

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
