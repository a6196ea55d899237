"""What more threads do, and what a stalled TLBI costs those who wait for none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reporting.run import build, run
from reporting.text import table, verdict

TITLE = "More threads"
HOW: tuple[str, ...] = (
    "More threads: time that passes, the best of 401 and of 31 rounds, each of which measures one thread and",
    "several in",
    "turn.",
)
AT_LEAST = 1.9
STALLED_AT_MOST = 1.2


def measure(quick: bool) -> dict[str, Any]:
    """Run `scaling`, which takes seconds, quick or not."""
    del quick
    found: dict[str, Any] = json.loads(run(build("scaling")[0]))
    return found


def render(data: dict[str, Any]) -> list[str]:
    """Lay one thread and more out beside each other."""
    faults, stalled = _ratios(data)
    return table(
        ["what", "one thread>", "more threads>", "ratio>", "budget>", ""],
        [
            [
                "faults on disjoint ranges, two threads, million faults/s",
                f"{data['one_thread_mfaults']:.1f}",
                f"{data['two_threads_mfaults']:.1f}",
                f"{faults:.2f} x",
                f">= {AT_LEAST} x",
                verdict(AT_LEAST, faults),
            ],
            [
                f"{data['breaks_per_thread']:.0f} broken blocks a thread, each TLBI stalled {data['stall_us']:.0f} us,"
                " 48 threads, ms in all",
                f"{data['one_stalled_ms']:.2f}",
                f"{data['48_stalled_ms']:.2f}",
                f"{stalled:.2f} x",
                f"<= {STALLED_AT_MOST} x",
                verdict(stalled, STALLED_AT_MOST),
            ],
        ],
    )


def missed(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Ratios that are not as they should be."""
    faults, stalled = _ratios(data)
    found = [("two_threads", "two threads")] if faults < AT_LEAST else []
    return found + ([("stalled", "48 threads")] if stalled > STALLED_AT_MOST else [])


def draw(data: dict[str, Any], folder: Path) -> None:
    """Draw nothing: two figures need no plot."""


def _ratios(data: dict[str, Any]) -> tuple[float, float]:
    return data["two_threads_mfaults"] / data["one_thread_mfaults"], data["48_stalled_ms"] / data["one_stalled_ms"]
