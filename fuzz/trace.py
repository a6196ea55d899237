"""The readers of recorded traces, coverage-guided: `python fuzz/trace.py [CORPUS] [libFuzzer's options]`.

Needs atheris (PyPI) beside the installed package. The body stands in `tests/trace_target.py`; the ordinary tests run it
too.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import atheris

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

with atheris.instrument_imports(include=["s2pt.trace", "csv", "json"]):
    from trace_target import one_input


def main() -> None:
    """Fuzz until an option ends it."""
    with TemporaryDirectory() as folder:
        atheris.Setup(sys.argv, lambda data: one_input(data, Path(folder)))
        atheris.Fuzz()


if __name__ == "__main__":
    main()
