"""Measures everything and writes BENCHMARKS.md with its plots: `python benches/report.py`.

It takes a quarter of an hour and needs cargo, valgrind and the package's `cli` and `dev` extras. Each part's figures
are kept as JSON in a folder, so that a report can be made of some that are new (`--only`) and the rest as they were.
`--check` counts instructions only and fails where a count has grown since the last report: counts hardly depend on the
machine and not at all on its load, so that CI can hold them; it needs nothing but Python. `--record` keeps new counts
without a report.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from reporting.counts import check, count_all, list_rows, record
from reporting.document import PARTS, draw, write
from reporting.run import PLOTS, ROOT, build, moment


def measure(names: list[str], folder: Path, quick: bool) -> None:
    """Measure parts, one after the other, and keep what they give."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        print(f"=== {name}", flush=True)
        before = moment()
        data = PARTS[name].measure(quick)
        kept = {"quick": quick, "moment": before, "data": data}
        (folder / f"{name}.json").write_text(json.dumps(kept, indent=1) + "\n")


def read(names: list[str], folder: Path) -> dict[str, dict[str, Any]]:
    """Read what was kept of each part."""
    missing = [name for name in names if not (folder / f"{name}.json").is_file()]
    if missing:
        raise SystemExit(
            f"{folder} has no figures of {', '.join(missing)}: measure them, or leave them out (--without)"
        )
    return {name: json.loads((folder / f"{name}.json").read_text()) for name in names}


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="count instructions only; fail where one has grown")
    parser.add_argument("--record", action="store_true", help="count instructions only, and keep them for --check")
    parser.add_argument(
        "--only", nargs="*", choices=PARTS, metavar="PART", help="measure these parts, reuse the others"
    )
    parser.add_argument("--without", nargs="+", choices=PARTS, default=[], metavar="PART", help="leave these parts out")
    parser.add_argument("--from", type=Path, dest="folder", metavar="FOLDER", help="where figures are kept")
    parser.add_argument("--quick", action="store_true", help="everything small: proves that it runs, figures of no use")
    parser.add_argument("--out", type=Path, help="write the report here, its plots beside it, and record no counts")
    arguments = parser.parse_args()

    if arguments.check or arguments.record:
        instructions = build("instructions")[0]
        rows = list_rows(instructions)
        counts = count_all(instructions, rows)
        if arguments.record:
            record(counts)
        return check(rows, counts)

    scratch = ROOT / "target" / ("benchmarks-quick" if arguments.quick else "benchmarks")
    folder = arguments.folder or scratch
    wanted = [name for name in PARTS if name not in arguments.without]
    chosen = wanted if arguments.only is None else [name for name in wanted if name in arguments.only]
    measure(chosen, folder, arguments.quick)
    measured = read(wanted, folder)
    if arguments.out or any(part["quick"] for part in measured.values()):
        out = arguments.out or folder / "BENCHMARKS.md"
        plots = out.parent / "plots"
    else:
        out, plots = ROOT / "BENCHMARKS.md", PLOTS
        if "budget" in measured:
            record({row["id"]: row["instructions"] for row in measured["budget"]["data"]["rows"]})
    draw(measured, plots)
    out.write_text(write(measured))
    print(f"wrote {out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
