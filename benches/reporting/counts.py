"""Rows of the budget table and their instructions, counted by callgrind."""

from __future__ import annotations

import json
import re
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from reporting.run import COUNTS, run
from reporting.text import figure

# Counts differ a little between processors: the C library picks its memset by what they can do.
GROWTH_ALLOWED = 1.15


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the budget table, as `instructions --list` prints it."""

    id: str
    title: str
    operations: int
    budget_ns: float | None
    budget_instructions: float | None
    kvm_ns: float | None
    kvm_instructions: float | None


def list_rows(instructions: Path) -> list[Row]:
    """Ask the bench binary which rows there are."""
    rows = []
    for line in run(instructions, "--list").splitlines():
        name, title, operations, *numbers = line.split("\t")
        rows.append(Row(name, title, int(operations), *(float(number) if number else None for number in numbers)))
    return rows


def count_instructions(instructions: Path, row: Row) -> float:
    """Instructions per operation of one row, by callgrind."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "callgrind.out"
        run(
            "valgrind",
            "--quiet",
            "--tool=callgrind",
            "--collect-atstart=no",
            "--toggle-collect=*measured_region*",
            f"--callgrind-out-file={out}",
            instructions,
            row.id,
        )
        match = re.search(r"^(?:totals|summary): (\d+)", out.read_text(), re.MULTILINE)
    if match is None or int(match[1]) == 0:
        raise SystemExit(f"callgrind counted nothing for {row.id}: is `measured_region` still a function of its own?")
    return int(match[1]) / row.operations


def count_all(instructions: Path, rows: list[Row]) -> dict[str, float]:
    """Instruction counts of all rows; two runs at a time, since counts do not depend on load."""
    with ThreadPoolExecutor(max_workers=2) as pool:
        counts = pool.map(lambda row: count_instructions(instructions, row), rows)
        return dict(zip((row.id for row in rows), counts, strict=True))


def record(counts: dict[str, float]) -> None:
    """Keep the counts for later checks."""
    COUNTS.write_text(json.dumps({name: round(count, 2) for name, count in counts.items()}, indent=2) + "\n")


def check(rows: list[Row], counts: dict[str, float]) -> int:
    """Print the counts beside those of the last report; return 1 if one has grown."""
    recorded: dict[str, float] = json.loads(COUNTS.read_text())
    print(f"{'instructions per operation':28} {'now':>10} {'recorded':>10} {'budget':>10}")
    grown = []
    for row in rows:
        count, before = counts[row.id], recorded.get(row.id)
        if before is None or count > GROWTH_ALLOWED * before:
            grown.append(row.id)
        cells = [figure(count), figure(before) or "none", figure(row.budget_instructions) or "-"]
        print(f"{row.id:28} " + " ".join(f"{cell:>10}" for cell in cells))
    if grown:
        print(f"grown by more than {100 * GROWTH_ALLOWED - 100:.0f} %, or not recorded: {', '.join(grown)}")
    return 1 if grown else 0
