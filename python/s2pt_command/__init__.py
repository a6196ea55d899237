"""Where the ``s2pt`` command begins, and what an interrupt (Ctrl-C) does to it at any moment.

A package of its own, which imports next to nothing: `s2pt` itself takes a moment to import, and an interrupt in the
middle of that must end the command as any other does. The rule: one interrupt is heard. It ends what is running, and
what there is up to there is told; those that follow it meanwhile change nothing, unless that takes long.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
from types import FrameType

__all__ = ["main"]

INTERRUPTED = 130  # what shells give for SIGINT
_PATIENCE_S = 5.0  # after so long a further interrupt ends the command, whatever it is about


def main() -> None:
    """Run the command with the process's arguments, and leave the process."""
    heeded = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN  # as it is for what shells start in the background
    if heeded:
        signal.signal(signal.SIGINT, _leave)  # an exception would come out of the middle of some import
    from s2pt.cli import load

    run = load()
    if heeded:
        signal.signal(signal.SIGINT, _Once())
    try:
        code = run(sys.argv[1:])
    except KeyboardInterrupt:
        _leave()
    finally:
        if heeded:
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # all is done and told
    sys.exit(code)


def _leave(signum: int = signal.SIGINT, frame: FrameType | None = None) -> None:
    """End the process at once."""
    with contextlib.suppress(OSError):
        os.write(2, b"s2pt: error: interrupted\n")
    os._exit(INTERRUPTED)


class _Once:
    """Raise a KeyboardInterrupt at the first signal, and only then; long after it, leave."""

    first: float | None = None

    def __call__(self, signum: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.first is None:
            self.first = now
            raise KeyboardInterrupt
        if now - self.first > _PATIENCE_S:
            _leave()
