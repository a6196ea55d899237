"""The ``s2pt`` command: dirty-log, replay, inspect, explain, diff, decode, bench, predict.

Rust does the work in its own threads; this package reads options, shows progress and prints results. A mistake of the
caller ends with one line on standard error and exit code 2. It begins in `s2pt_command`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

__all__ = ["load"]


def load() -> Callable[[list[str]], int]:
    """Import the command, which is a function of its arguments; without its libraries, say so and leave the process."""
    try:
        from s2pt.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(f"s2pt: error: the command needs {error.name}; install it with: pip install 's2pt[cli]'", file=sys.stderr)
        sys.exit(2)
    return run
