"""The budget table: what one operation takes, in nanoseconds by criterion and in instructions by callgrind."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from reporting import plots
from reporting.counts import count_all, list_rows
from reporting.run import build, run
from reporting.text import figure, paragraph, picture, table, verdict

TITLE = "One operation"
GROUP = "critical_path"
HOW: tuple[str, ...] = (
    "Times by criterion: median of 30 samples over at least 3 s a row, in processor time of the one thread; each",
    "sample",
    "makes a fresh table, then times the row's operations alone (`src/bench` says what they are). Instructions by",
    "callgrind, counted only inside the measured region of one run, divided by its operations.",
)
QUICK = ("--warm-up-time", "0.1", "--measurement-time", "0.1", "--sample-size", "10")


def measure(quick: bool) -> dict[str, Any]:
    """Run criterion and callgrind over every row."""
    instructions, target = build("instructions")
    rows = list_rows(instructions)
    counts = count_all(instructions, rows)
    print(run("cargo", "bench", "--locked", "--bench", GROUP, "--", *(QUICK if quick else ())))
    return {
        "rows": [
            {**asdict(row), "instructions": counts[row.id], **_timing(target, row.id, row.operations)} for row in rows
        ]
    }


def _timing(target: Path, name: str, operations: int) -> dict[str, float]:
    """Criterion's newest estimate for one operation of a row: median and its 95 % confidence interval."""
    text = (target / "criterion" / GROUP / name / "new" / "estimates.json").read_text()
    median = json.loads(text)["median"]
    interval = median["confidence_interval"]
    times = {"median": median["point_estimate"], "low": interval["lower_bound"], "high": interval["upper_bound"]}
    return {f"{name}_ns": time / operations for name, time in times.items()}


def render(data: dict[str, Any]) -> list[str]:
    """Lay the rows out beside their budgets."""
    lines = []
    for row in data["rows"]:
        low, median, high = (figure(row[f"{name}_ns"]) for name in ("low", "median", "high"))
        lines.append(
            [
                row["title"],
                figure(row["kvm_ns"]),
                figure(row["budget_ns"]),
                f"{median} ({low}..{high})",
                verdict(row["median_ns"], row["budget_ns"]),
                figure(row["kvm_instructions"]),
                figure(row["budget_instructions"]),
                figure(row["instructions"]),
                verdict(row["instructions"], row["budget_instructions"]),
            ]
        )
    columns = [
        "operation",
        "KVM's code, ns>",
        "budget, ns>",
        "time, ns (95 % interval)>",
        "",
        "KVM's code, instr.>",
        "budget, instr.>",
        "instructions>",
        "",
    ]
    shown = picture("budget", "Time of each row as a share of its budget")
    return [
        *paragraph(
            "Single thread, 4K granule, 40-bit IPA, the `Null` sink (a TLBI costs nothing), table frames touched",
            "before.",
            "*KVM's code* is Linux 6.12's `pgtable.c` compiled for user space and measured on another machine of a",
            "similar kind, so compare ratios; the two reference rows tell how the machines differ (there a",
            "compare-exchange took 5.6 ns and an epoch pin 6.5 ns).",
        ),
        "",
        *table(columns, lines),
        *shown,
    ]


def missed(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Rows over a budget, by id and title."""
    over = [
        row
        for row in data["rows"]
        if (row["budget_ns"] and row["median_ns"] > row["budget_ns"])
        or (row["budget_instructions"] and row["instructions"] > row["budget_instructions"])
    ]
    return [(row["id"], row["title"]) for row in over]


def draw(data: dict[str, Any], folder: Path) -> None:
    """Each row's time as a share of its budget."""
    rows = [row for row in data["rows"] if row["budget_ns"]]
    plots.shares(
        folder / "budget.svg",
        "Time as a share of the budget",
        [(row["title"], row["median_ns"] / row["budget_ns"], f"{figure(row['median_ns'])} ns") for row in rows],
    )
