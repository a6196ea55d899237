"""The ``s2pt`` command: dirty-log, replay, inspect, explain, diff, decode, bench, predict.

Rust does the work in its own threads; this package reads options, shows progress and prints results. A mistake of the
caller ends with one line on standard error and exit code 2.
"""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command with the process's arguments, and leave the process."""
    try:
        from s2pt.cli.app import run
    except ModuleNotFoundError as error:
        if error.name not in ("typer", "rich"):
            raise
        print(f"s2pt: error: the command needs {error.name}; install it with: pip install 's2pt[cli]'", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(sys.argv[1:]))
