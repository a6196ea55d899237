"""What size does: to each operation, to memory, to what waits to be freed, to those beside a huge unmap."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from reporting import plots
from reporting.run import build, run
from reporting.text import figure, paragraph, picture, size, table

TITLE = "From 1 MiB to 16 TiB"
HOW: tuple[str, ...] = (
    "Sizes: time that passes (`benches/sizes` says of what), median of 9 rounds, of 3 where a round takes seconds.",
)
OPERATIONS = {
    "fault": "fault",
    "lookup": "lookup",
    "translate": "translate",
    "write_protect": "write-protect",
    "relax": "relax",
    "unmap": "unmap",
    "map_all": "map all, per leaf",
    "write_protect_all": "write-protect all, per leaf",
    "unmap_all": "unmap all, per leaf",
}


def measure(quick: bool) -> dict[str, Any]:
    """Run `sizes`."""
    found: dict[str, Any] = json.loads(run(build("sizes")[0], *(["--quick"] if quick else [])))
    return found


def render(data: dict[str, Any]) -> list[str]:
    """Print cost by size, then memory, then what is retired, then how a huge table goes."""
    cost = data["cost"]
    lines = [
        *paragraph(
            f"One table with {cost['ipa_bits']} bits of input address, so that every walk has four levels.",
            "Operations on",
            f"one leaf take up to {cost['sample']:,} leaves in random order over the whole guest. Nanoseconds, one",
            "thread.",
        ),
        *picture("sizes", "Cost of each operation by mapped memory"),
    ]
    for leaf in dict.fromkeys(point["leaf"] for point in cost["points"]):
        points = [point for point in cost["points"] if point["leaf"] == leaf]
        # The plot has every size, the table every other one.
        shown = [point for point in points if (point["bytes"] // points[0]["bytes"]).bit_length() % 4 == 1]
        rows = [
            [title, *(figure(point["operations"][name]["median"]) for point in shown)]
            for name, title in OPERATIONS.items()
        ]
        lines += [*table([f"leaves of {size(leaf)}", *(f"{size(point['bytes'])}>" for point in shown)], rows), ""]
    return [*lines, *_memory(data["memory"]), *_retired(data["retired"]), *_teardown(data["teardown"])]


def _memory(data: dict[str, Any]) -> list[str]:
    rows = [
        [
            size(point["leaf"]),
            size(point["bytes"]),
            f"{point['frames']:,}",
            size(point["table_bytes_per_gib"]),
            size(point["side_bytes_per_gib"]),
            figure(point["side_bytes_per_frame"]) or "-",
        ]
        for point in data["points"]
    ]
    return [
        "### Memory",
        "",
        *paragraph(
            "What the process occupies, as the operating system counts it: *beside* is everything that is no table",
            "frame,",
            f"after each frame was freed and used again. The design allows {figure(data['budget'])} bytes a frame; the",
            "bench fails above that. Below 16,384 frames a page of the host more or less is most of the figure.",
        ),
        "",
        *table(["leaves", "guest>", "frames>", "tables per GiB>", "beside per GiB>", "beside per frame, bytes>"], rows),
        "",
    ]


def _retired(data: dict[str, Any]) -> list[str]:
    held, drain = data["held"], data["drain"]
    storms = [
        [
            f"{storm['threads']}",
            f"{storm['faults'] / storm['seconds'] / 1e6:.1f}",
            f"{storm['frames_retired'] / storm['seconds']:,.0f}",
            f"{storm['peak_frames']:,}",
            f"{storm['drain_us'] / 1e3:.3g}",
        ]
        for storm in data["storms"]
    ]
    return [
        "### What waits to be freed",
        "",
        "Half of the threads fault pages of one GiB in at random, half unmap whole tables of it.",
        "",
        *table(
            ["threads>", "million faults/s>", "frames retired/s>", "most frames waiting>", "`drain` after it, ms>"],
            storms,
        ),
        "",
        *paragraph(
            f"One thread that stays in the table keeps all that others retire: {held['frames']:,} frames, each",
            "unlinked",
            f"by a call of its own, took {figure(held['side_bytes_per_frame'])} bytes each beside the frames; when",
            "it had",
            f"left, `drain` took {held['drain_us'] / 1e3:.3g} ms.",
            f"`drain` with nothing to do takes {figure(drain['idle_ns']['median'])} ns, after an unmap of one GiB",
            "of pages",
            f"{figure(drain['after_gib_ms']['median'])} ms, beside a thread that faults all the time",
            f"{figure(drain['after_gib_beside_a_fault_ms']['median'])} ms.",
        ),
        "",
    ]


def _teardown(data: dict[str, Any]) -> list[str]:
    alone = data["alone"]
    ways = {
        "unmap_shared_ms": "`unmap`, shared",
        "drain_ms": "`drain` after it",
        "unmap_exclusive_ms": "`unmap`, exclusive",
        "drop_ms": "drop of the table",
    }
    beside = [
        [
            way["title"],
            size(way["bytes"]),
            str(way["levels"]),
            figure(way["owner_ms"]["median"]),
            figure(way["fault_mean_ns"]["median"]),
            figure(way["longest_fault_ms"]["median"]),
            figure(way["most_work_in_a_fault_ms"]["median"]),
            f"{way['peak_pending_frames']:,}",
        ]
        for way in data["beside"]
    ]
    columns = [
        "what",
        "unmapped>",
        "levels>",
        "unmap and drain, ms>",
        "mean fault, ns>",
        "longest fault, ms>",
        "most work in a fault, ms>",
        "most frames waiting>",
    ]
    return [
        "### A huge table goes",
        "",
        *table(
            [f"{size(data['bytes'])} of 4K pages", "median, ms>", "min, ms>"],
            [[title, figure(alone[name]["median"]), figure(alone[name]["min"])] for name, title in ways.items()],
        ),
        "",
        *paragraph(
            "Meanwhile another thread faults pages in, each under the clock. The first line is the machine: its",
            "longest",
            "fault while nothing is unmapped. *Work* is processor time of the fault itself: frames of others that",
            "it frees.",
        ),
        "",
        *table(columns, beside),
        *picture("pauses", "The longest fault beside an unmap"),
    ]


def missed(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Nothing: the bench itself fails where the memory is above the budget."""
    del data
    return []


def draw(data: dict[str, Any], folder: Path) -> None:
    """Cost by size, and the longest fault beside an unmap."""
    cost, panels = data["cost"]["points"], []
    for leaf in dict.fromkeys(point["leaf"] for point in cost):
        points = [point for point in cost if point["leaf"] == leaf]
        curves = {
            title: [(point["bytes"], point["operations"][name]["median"]) for point in points]
            for name, title in OPERATIONS.items()
        }
        panels.append((f"leaves of {size(leaf)}", curves))
    plots.curves(folder / "sizes.svg", panels)
    beside = [
        (way["title"], way["longest_fault_ms"]["median"], way["most_work_in_a_fault_ms"]["median"])
        for way in data["teardown"]["beside"]
    ]
    plots.pauses(folder / "pauses.svg", beside)
