"""A recorded run as one value, and how it is put together from ftrace text."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from s2pt.trace.build import Builder
from s2pt.trace.events import EventFlag, Kind, Outcome, SlotChange
from s2pt.trace.files import beside, fail, read_json, within
from s2pt.trace.ftrace import MARK_EVENTS, Line, read_ftrace
from s2pt.trace.sidecar import CsvRow, Dump, TableShape, kernel_version, read_csv, read_dump, slot_events
from s2pt.trace.slots import SlotEvent

__all__ = ["Trace", "load_ftrace"]


@dataclass(frozen=True, slots=True, repr=False)
class Trace:
    """A recorded run.

    Attributes
    ----------
    name : str
        The tag of its files.
    kernel : (int, int)
        Major and minor version of the host kernel, (0, 0) where unknown.
    events : ndarray of `EVENT`
        Everything that happened, in the order of time.
    dumps : tuple of Dump
        The tables that KVM had; a `DUMP` event refers to one by its index.
    marks : tuple of (int, str)
        The other markers, time in microseconds and text.
    vcpus : int
        How many vCPUs there are.
    shape : TableShape
        Geometry and registers of the table.
    has_calls : bool
        Whether the order of the table's changes is known (TAG.pgt.txt).
    notes : tuple of str
        What had to be left open.
    """

    name: str
    kernel: tuple[int, int]
    events: npt.NDArray[np.void]
    dumps: tuple[Dump, ...]
    marks: tuple[tuple[int, str], ...]
    vcpus: int
    shape: TableShape
    has_calls: bool
    notes: tuple[str, ...]

    def of_kind(self, kind: Kind) -> npt.NDArray[np.void]:
        """Give the events of one kind (a copy)."""
        chosen: npt.NDArray[np.void] = self.events[self.events["kind"] == Kind(kind)]
        return chosen

    @property
    def faults(self) -> npt.NDArray[np.void]:
        """The guest faults, MMIO included, as the MMU raised them."""
        return self.of_kind(Kind.FAULT)

    @property
    def has_sizes(self) -> bool:
        """Whether the size of every mapping was recorded."""
        handled = self.of_kind(Kind.HANDLED)
        return not bool(np.any(handled["outcome"] == Outcome.UNKNOWN))

    def outcomes(self) -> dict[str, int]:
        """Count the faults by what KVM did about them.

        Examples
        --------
        >>> import s2pt.trace
        >>> s2pt.trace.read("tests/data/kvm-traces/thpon_2vcpu.txt.xz").outcomes()
        {'map 2M': 52, 'map 2M, lost': 15, 'mmio': 15587, 'relax': 4}
        """
        counts: dict[str, int] = {}
        handled = self.of_kind(Kind.HANDLED)
        for outcome, size, ret in zip(
            handled["outcome"].tolist(), handled["map_size"].tolist(), handled["ret"].tolist(), strict=True
        ):
            name = Outcome(outcome).name.lower()
            if outcome == Outcome.MAP:
                name += f" {size >> 10}K" if size < 1 << 20 else f" {size >> 20}M"
            name += ", lost" if ret else ""
            counts[name] = counts.get(name, 0) + 1
        return dict(sorted(counts.items()))

    def __repr__(self) -> str:
        kernel = ".".join(map(str, self.kernel))
        return (
            f"Trace({self.name!r}, kernel={kernel}, vcpus={self.vcpus}, events={len(self.events)}, "
            f"faults={len(self.faults)}, dumps=[{', '.join(dump.name for dump in self.dumps)}])"
        )


def load_ftrace(path: Path, *, allow_lost: bool = False) -> Trace:
    """Read TAG.txt and what stands beside it."""
    tag = path.name.removesuffix(".xz").removesuffix(".txt")
    folder = path.parent
    lines, notes = read_ftrace(path, allow_lost=allow_lost)
    side_path = beside(folder, f"{tag}.json")
    if side_path is None:
        fail(path.name, None, f"expected {tag}.json beside it: it holds the memory slots and the vCPU threads")
    about = read_json(side_path)
    kernel = kernel_version(about.get("l1_kernel", ""))
    calls, call_notes = _calls(folder, tag, allow_lost)
    csv_path = beside(folder, f"{tag}.faults.csv")
    csv: list[CsvRow] | None = None
    if csv_path is not None:
        csv = read_csv(csv_path, kernel)
    names = [line.text.split()[1] for line in lines if _is_dump(line)]
    dumps = {name: dump for name in names if (dump := read_dump(name, folder, tag, about, side_path.name)) is not None}
    shape = next((dump.shape for dump in dumps.values()), TableShape())
    builder = Builder(
        vcpus=_vcpus(side_path.name, about),
        kernel=kernel,
        shape=shape,
        huge="[never]" not in str(about.get("thp", "")),
        has_calls=calls is not None,
        csv=csv,
        csv_name=csv_path.name if csv_path else "",
        dumps=dumps,
    )
    events = builder.run(_merge(slot_events(side_path.name, about), lines, calls or []))
    return Trace(
        name=tag,
        kernel=kernel,
        events=events,
        dumps=tuple(builder.dumps),
        marks=tuple(builder.marks),
        vcpus=len(set(builder.vcpus.values())),
        shape=shape,
        has_calls=calls is not None,
        notes=tuple(notes + call_notes + builder.notes + _remarks(events, calls is not None, f"{tag}.pgt.txt")),
    )


def _calls(folder: Path, tag: str, allow_lost: bool) -> tuple[list[Line] | None, list[str]]:
    path = beside(folder, f"{tag}.pgt.txt")
    if path is None:
        return None, []
    lines, notes = read_ftrace(path, allow_lost=allow_lost)
    # Both files have the markers; the trace's own are taken.
    return [line for line in lines if line.event not in MARK_EVENTS], notes


def _is_dump(line: Line) -> bool:
    return line.event in MARK_EVENTS and line.text.startswith("dump_end ") and len(line.text.split()) == 2


def _vcpus(where: str, about: dict[str, Any]) -> dict[int, int]:
    try:
        threads = about["vcpu_threads"].items()
        return {int(tid): within(int(index), 1 << 31) for tid, index in threads}
    except (KeyError, AttributeError, TypeError, ValueError, OverflowError):
        fail(where, None, "expected 'vcpu_threads', an object that gives each thread its vCPU")


def _merge(slots: list[SlotEvent], lines: list[Line], calls: list[Line]) -> list[Line | SlotEvent]:
    """Merge three streams by time; at the same microsecond slots come first, then tracepoints, then table calls."""
    ordered: list[Sequence[Line | SlotEvent]] = [sorted(slots, key=lambda event: event.time_us), lines, calls]
    streams = [
        [(item.time_us, rank, number, item) for number, item in enumerate(stream)]
        for rank, stream in enumerate(ordered)
    ]
    return [item for _, _, _, item in sorted(itertools.chain(*streams))]  # three runs, which the sort only merges


def _remarks(events: npt.NDArray[np.void], has_calls: bool, calls_name: str) -> list[str]:
    remarks = []
    if not has_calls:
        remarks.append(f"no {calls_name}: faults take effect when they are raised")
        slots = events[events["kind"] == Kind.SLOT]
        if np.any((slots["ref"] == SlotChange.FLAGS) & (slots["flags"] & 1 == 1)):
            remarks.append(f"no {calls_name}: what the dirty log protected against writing is not known")
    handled = events[(events["kind"] == Kind.HANDLED) & (events["outcome"] != Outcome.MMIO)]
    unknown = int(np.count_nonzero(handled["flags"] & int(EventFlag.NO_PA)))
    if unknown:
        remarks.append(f"{unknown:,} faults hit pages whose host address nothing tells")
    return remarks
