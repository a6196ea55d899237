"""What the Python face costs, by the call and by the element."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from reporting.run import ROOT
from reporting.text import figure, table

TITLE = "From Python"
# pyperf's own choices, for some eighty rows, would take a quarter of an hour.
ENOUGH = ("--processes", "2", "--min-time", "0.05")
QUICK = ("--processes", "1", "--values", "1", "--warmups", "0", "--min-time", "0.001")
HOW: tuple[str, ...] = (
    "Python: pyperf, median and minimum of the values of its worker processes; a call's time includes a loop's turn of",
    "about 8 ns (`benches/python.py` says what is measured).",
)


def measure(quick: bool) -> dict[str, Any]:
    """Install the extension as it is now, and run `benches/python.py`."""
    for needed in ("pyperf", "maturin"):
        if importlib.util.find_spec(needed) is None:
            raise SystemExit(
                f"the Python rows need {needed}: pip install -e '.[cli,dev]' (or leave them out: --without)"
            )
    subprocess.run(
        [sys.executable, "-m", "maturin", "develop", "--release", "--locked", "--quiet"], cwd=ROOT, check=True
    )
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "python.json"
        flags = QUICK if quick else ENOUGH
        subprocess.run([sys.executable, "benches/python.py", "--json", out, *flags], cwd=ROOT, check=True)
        found: dict[str, Any] = json.loads(out.read_text())
        return found


def render(data: dict[str, Any]) -> list[str]:
    """Lay the rows out beside their budgets."""
    rows = [
        [
            row["title"],
            row["unit"],
            "" if row["budget"] is None else f"{'>=' if row['unit'] == 'x' else '<='} {figure(row['budget'])}",
            figure(row["median"]),
            figure(row["min"]),
            "" if row["budget"] is None else "kept" if _kept(row) else "**missed**",
        ]
        for row in data["rows"]
    ]
    return table(["what", "unit", "budget>", "median>", "min>", ""], rows)


def missed(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows over their budgets."""
    return [(row["id"], row["title"]) for row in data["rows"] if row["budget"] is not None and not _kept(row)]


def draw(data: dict[str, Any], folder: Path) -> None:
    """Draw nothing: the table says it all."""


def _kept(row: dict[str, Any]) -> bool:
    """Whether the median is within the budget: an upper bound, for a ratio a lower one."""
    return bool(row["median"] >= row["budget"] if row["unit"] == "x" else row["median"] <= row["budget"])
