"""Measures every row of the budget table and writes BENCHMARKS.md: `python benches/report.py`.

Times come from criterion (`critical_path.rs`), instruction counts from callgrind (`instructions.rs`), what more threads
do from `scaling.rs`. `--check` counts instructions only and fails where a count has grown since the last report: counts
hardly depend on the machine and not at all on its load, so that CI can hold them.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import platform
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
GROUP = "critical_path"
COUNTS = ROOT / "benches" / "instructions.json"
# Counts differ a little between processors: the C library picks its memset by what they can do.
GROWTH_ALLOWED = 1.15

INTRODUCTION = """\
# Benchmarks

Written by `python benches/report.py`; do not edit by hand. Single thread, 4K granule, 40-bit IPA, the `Null` sink (a
TLBI costs nothing), table frames touched before. *KVM's code* is Linux 6.12's `pgtable.c` compiled for user space and
measured on another machine of a similar kind, so compare ratios; the two reference rows tell how the machines differ
(there a compare-exchange took 5.6 ns and an epoch pin 6.5 ns).

## One operation
"""

HOW = """\
Times: criterion, median of 30 samples over at least 3 s a row, in processor time of the one thread; each sample makes a
fresh table, then times the row's operations alone (`src/bench` says what they are). Instructions: callgrind,
counted only inside the measured region of one run, divided by its operations. More threads: time that passes, the best
of 401 and of 31 rounds, each of which measures one thread and several in turn.
"""

# Printed for a row that misses a budget; where the instructions go was read from callgrind's annotated source.
GENERAL = (
    "granule, levels, concatenation and the descriptor's format are values of the table, looked up at each level: about"
    " 45 instructions a level (place of the entry, bounds of the arena, output address with the high bits that LPA2"
    " moves)"
)
EXCLUSIVE = (
    "exclusive access runs the shared code entry by entry, with plain stores in place of compare-exchanges; the budget"
    " takes a loop over a whole table that the compiler can vectorise"
)
WHY = {
    **dict.fromkeys(
        ("fault_page", "fault_page_batch", "relax_page"), f"{GENERAL}; attributes are encoded on every call"
    ),
    **dict.fromkeys(("lookup", "lookup_batch"), f"{GENERAL}; random pages of 1 GiB also miss the cache for the entry"),
    "write_protect_exclusive": EXCLUSIVE,
    "unmap_exclusive": EXCLUSIVE,
    "two_threads": "wall time of two hardware threads on a shared host: runs gave 1.86 to 2.04",
    "stalled": "48 threads' starts and waits in wall time on two cores of a shared host: runs gave 1.16 to 1.32",
}


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


@dataclass(frozen=True, slots=True)
class Timing:
    """Criterion's estimate for one operation, in nanoseconds: median and its 95 % confidence interval."""

    median: float
    low: float
    high: float


def run(*command: str | Path) -> str:
    """Run a command in the project's root and return what it printed; its errors go to the terminal."""
    done = subprocess.run([str(part) for part in command], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout


def build(bench: str) -> tuple[Path, Path]:
    """Build a bench target; return its executable and the target directory."""
    messages = run("cargo", "bench", "--locked", "--no-run", "--bench", bench, "--message-format=json")
    for line in messages.splitlines():
        message = json.loads(line)
        if message.get("reason") == "compiler-artifact" and message["target"]["name"] == bench:
            executable = Path(message["executable"])
            return executable, executable.parents[2]
    raise SystemExit(f"cargo built no executable for the bench target {bench}")


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


def read_timing(target: Path, row: Row) -> Timing:
    """Criterion's newest estimate for one row, per operation."""
    text = (target / "criterion" / GROUP / row.id / "new" / "estimates.json").read_text()
    median = json.loads(text)["median"]
    interval = median["confidence_interval"]
    per = row.operations
    return Timing(median["point_estimate"] / per, interval["lower_bound"] / per, interval["upper_bound"] / per)


def over_budget(value: float, budget: float | None) -> str:
    """Say in a word how a measure stands to its budget."""
    if budget is None:
        return ""
    return "kept" if value <= budget else f"**missed by {100 * (value / budget - 1):.0f} %**"


def figure(value: float | None) -> str:
    """Three digits that matter; nothing for nothing."""
    if value is None:
        return ""
    if value >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def first_match(pattern: str, text: str) -> str:
    """Return the first group of a pattern in a text, or a question mark."""
    match = re.search(pattern, text, re.MULTILINE)
    return match[1].strip() if match else "?"


def machine(load: float) -> list[tuple[str, str]]:
    """Say what was measured on, and with what."""
    cpu = run("lscpu")
    lock = (ROOT / "Cargo.lock").read_text()
    epoch = first_match(r'name = "crossbeam-epoch"\nversion = "([^"]+)"', lock)
    changed = (
        " and changes not committed"
        if run("git", "status", "--porcelain", "--untracked-files=no", "--", ".", ":!benches/instructions.json")
        else ""
    )
    model, cores = first_match(r"^Model name: *(.*)$", cpu), first_match(r"^CPU\(s\): *(.*)$", cpu)
    level2, level3 = first_match(r"^L2.*?: *(.*)$", cpu), first_match(r"^L3.*?: *(.*)$", cpu)
    return [
        ("date", datetime.now(UTC).strftime("%Y-%m-%d")),
        ("commit", run("git", "rev-parse", "--short=12", "HEAD").strip() + changed),
        ("processor", f"{model}, {cores} cores"),
        ("caches", f"L2 {level2}, L3 {level3}"),
        ("kernel", platform.release()),
        ("load before the first measure", f"{load:.2f}"),
        ("rustc", run("rustc", "--version").strip()),
        ("crossbeam-epoch", epoch),
        ("valgrind", run("valgrind", "--version").strip()),
    ]


def reasons(missed: list[tuple[str, str]]) -> list[str]:
    """Lay out why rows, given by id and title, miss their budgets."""
    if not missed:
        return []
    rows: dict[str, list[str]] = {}
    for name, title in missed:
        rows.setdefault(WHY.get(name, "not looked into yet"), []).append(title)
    lines = [f"- *{'*, *'.join(titles)}*: {why}." for why, titles in rows.items()]
    return ["## What was missed, and why", "", *lines, ""]


def render(
    rows: list[Row], times: dict[str, Timing], counts: dict[str, float], scaling: dict[str, float], load: float
) -> str:
    """Lay the measures out beside their budgets."""
    header = [
        "operation",
        "KVM's code, ns",
        "budget, ns",
        "time, ns (95 % interval)",
        "",
        "KVM's code, instr.",
        "budget, instr.",
        "instructions",
        "",
    ]
    lines = [INTRODUCTION, f"| {' | '.join(header)} |", "|---|--:|--:|--:|---|--:|--:|--:|---|"]
    for row in rows:
        time, count = times[row.id], counts[row.id]
        cells = [
            row.title,
            figure(row.kvm_ns),
            figure(row.budget_ns),
            f"{figure(time.median)} ({figure(time.low)}..{figure(time.high)})",
            over_budget(time.median, row.budget_ns),
            figure(row.kvm_instructions),
            figure(row.budget_instructions),
            figure(count),
            over_budget(count, row.budget_instructions),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    missed = [
        (row.id, row.title)
        for row in rows
        if times[row.id].median > (row.budget_ns or math.inf) or counts[row.id] > (row.budget_instructions or math.inf)
    ]
    faults = scaling["two_threads_mfaults"] / scaling["one_thread_mfaults"]
    stalled = scaling["48_stalled_ms"] / scaling["one_stalled_ms"]
    missed += [("two_threads", "two threads")] if faults < 1.9 else []
    missed += [("stalled", "48 threads")] if stalled > 1.2 else []
    lines += [
        "",
        "## More threads",
        "",
        "| what | one thread | more threads | ratio | budget | |",
        "|---|--:|--:|--:|--:|---|",
        f"| faults on disjoint ranges, two threads, million faults/s | {scaling['one_thread_mfaults']:.1f}"
        f" | {scaling['two_threads_mfaults']:.1f} | {faults:.2f} x | >= 1.9 x | {over_budget(1.9, faults)} |",
        f"| {scaling['breaks_per_thread']:.0f} broken blocks a thread, each TLBI stalled {scaling['stall_us']:.0f} us,"
        f" 48 threads, ms in all | {scaling['one_stalled_ms']:.2f} | {scaling['48_stalled_ms']:.2f} | {stalled:.2f} x"
        f" | <= 1.2 x | {over_budget(stalled, 1.2)} |",
        "",
        *reasons(missed),
        "## How it was measured",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in machine(load)),
        "",
        HOW,
    ]
    return "\n".join(lines)


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


def main() -> int:
    """Run what the arguments ask for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--check", action="store_true", help="count instructions only; fail where one has grown")
    parser.add_argument("--out", type=Path, default=ROOT / "BENCHMARKS.md", help="where to write the report")
    arguments = parser.parse_args()

    load = os.getloadavg()[0]
    instructions, target = build("instructions")
    rows = list_rows(instructions)
    counts = count_all(instructions, rows)
    if arguments.check:
        return check(rows, counts)

    subprocess.run(["cargo", "bench", "--locked", "--bench", GROUP], cwd=ROOT, check=True)
    times = {row.id: read_timing(target, row) for row in rows}
    scaling = json.loads(run(build("scaling")[0]))
    COUNTS.write_text(json.dumps({name: round(count, 2) for name, count in counts.items()}, indent=2) + "\n")
    arguments.out.write_text(render(rows, times, counts, scaling, load))
    print(f"wrote {arguments.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
