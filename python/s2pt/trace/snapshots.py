"""Runs of snapshots that carry their own trace: KVM's self tests, stopped and dumped after each phase.

Each snapshot ``PREFIX_STAGE.json`` holds the table, the slots, and every tracepoint since the snapshot before. Slot
changes and write protection have no tracepoint and no kprobe here, but the test programs are known: what they do
between two phases follows from the phase's name and from the command line. Such events are `EventFlag.INFERRED`.

===================  ==================================================================================================
dirty_log_perf_test  logging on before ``logging_enabled``; with ``-g`` (no manual protect) that protects each slot
                     whole, and before ``iterN_cleared`` the log is fetched, which protects each 64-page word from its
                     lowest to its highest dirty page. Without ``-g`` the bitmap starts all ones, nothing is protected
                     at first, and clearing protects the words.
kvm_page_table_test  logging on before ``pt_logging`` (protects the slot whole), off before ``pt_adjusted``
===================  ==================================================================================================
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from s2pt.trace.build import Builder, is_write
from s2pt.trace.events import SlotChange
from s2pt.trace.files import beside, fail, read_json
from s2pt.trace.ftrace import Line
from s2pt.trace.load import Trace
from s2pt.trace.sidecar import Dump, TableShape, dump_from_json, kernel_version
from s2pt.trace.slots import LOG_DIRTY, Slot, SlotEvent

__all__ = ["load_snapshots", "snapshot_names"]

_EVENTS = "kvm_trace_since_previous_dump"
_SLOT = re.compile(r"id=(\d+) flags=([0-9a-f]+) gpa=([0-9a-f]+) size=([0-9a-f]+) hva=([0-9a-f]+)(?: .*)?")
_TIME = re.compile(r"(\d+)\.(\d{6})")
_FAULT = re.compile(r"ipa 0x([0-9a-f]+), hsr 0x([0-9a-f]+), .*")
_WORD = 64


def snapshot_names(folder: Path, prefix: str) -> list[str]:
    """Names (without ``.json``) of the snapshots ``PREFIX_*`` in a folder."""
    found = {path.name.removesuffix(".xz").removesuffix(".json") for path in folder.glob(f"{prefix}_*.json*")}
    return sorted(name for name in found if beside(folder, f"{name}.json") is not None)


def load_snapshots(folder: Path, name: str | None, *, prefix: str | None = None) -> Trace:
    """Read a run of snapshots, given one of them or the prefix of all."""
    if prefix is None:
        assert name is not None
        stage = _text(name, _snapshot(folder, name), "stage")
        if not name.endswith(f"_{stage}"):
            fail(f"{name}.json", None, f"expected a name that ends in its stage, '_{stage}'")
        prefix = name.removesuffix(f"_{stage}")
    stages = _stages(folder, prefix)
    run = _Run(prefix, stages)
    return run.trace()


def _snapshot(folder: Path, name: str) -> dict[str, Any]:
    path = beside(folder, f"{name}.json")
    if path is None:
        fail(f"{name}.json", None, "no such snapshot")
    about = read_json(path)
    if not isinstance(about.get(_EVENTS), list):
        fail(path.name, None, f"expected '{_EVENTS}': this snapshot carries no trace")
    return about


def _text(name: str, about: dict[str, Any], key: str) -> str:
    value = about.get(key)
    if not isinstance(value, str):
        fail(f"{name}.json", None, f"expected {key!r}, a text")
    return value


def _stages(folder: Path, prefix: str) -> list[tuple[str, dict[str, Any]]]:
    """Give the snapshots of a run, each with its stage, in the order in which they were taken."""
    found: dict[str, dict[str, Any]] = {}
    for name in snapshot_names(folder, prefix):
        about = _snapshot(folder, name)
        # A longer prefix may begin with this one: a snapshot of this run is called exactly PREFIX_STAGE.
        if name == f"{prefix}_{_text(name, about, 'stage')}":
            found[about["stage"]] = about
    if not found:
        fail(f"{prefix}_*.json", None, "no such snapshots")
    listed = re.search(r"S2DUMP=(\S+)", str(next(iter(found.values())).get("test_env", "")))
    names = listed[1].split("-") if listed else []
    if set(names) >= set(found):
        missing = [name for name in names[: names.index(max(found, key=names.index))] if name not in found]
        if missing:
            fail(f"{prefix}_{missing[0]}.json", None, "no such snapshot: its events are missing from the run")
        return [(stage, found[stage]) for stage in names if stage in found]
    return sorted(found.items(), key=lambda item: _rank(prefix, item[0]))


def _rank(prefix: str, stage: str) -> tuple[int, int]:
    """Place of a phase in its test."""
    dirty_log = ["populated", "logging_enabled", "", "logging_disabled"]
    fixed = ["pt_created", "pt_logging", "pt_updated", "pt_adjusted"] if stage.startswith("pt_") else dirty_log
    match = re.fullmatch(r"iter(\d+)_(dirtied|cleared)", stage)
    if match:
        return fixed.index(""), 2 * int(match[1]) + (match[2] == "cleared")
    if stage not in fixed:
        fail(f"{prefix}_{stage}.json", None, f"expected a phase of a known test, found {stage!r}")
    return fixed.index(stage), 0


class _Run:
    """One run while its stream is put together."""

    def __init__(self, prefix: str, stages: list[tuple[str, dict[str, Any]]]) -> None:
        self.prefix, self.stages = prefix, stages
        first = stages[0][1]
        self.command = str(first.get("test", ""))
        self.manual = "dirty_log_perf_test" in self.command and not re.search(r"\s-g\b", self.command)
        self.shape = TableShape.from_json(f"{prefix}_{stages[0][0]}.json", first)
        self.items: list[Line | SlotEvent] = []
        self.slots: dict[int, Slot] = {}
        self.dirty: dict[int, set[int]] = {}  # slot -> dirty page numbers in it
        self.all_dirty: set[int] = set()  # slots whose bitmap starts all ones
        self.faulting: list[int] = []
        self.now = 0

    def trace(self) -> Trace:
        dumps: dict[str, Dump] = {}
        for stage, about in self.stages:
            name = f"{self.prefix}_{stage}"
            lines = self._lines(name, about)
            self._phase(stage, self._read_slots(name, about, stage), lines[0].time_us if lines else self.now)
            for line in lines:
                self._watch(line)
            self.items += lines
            self.now = lines[-1].time_us if lines else self.now
            self.items.append(Line(self.now, 0, "tracing_mark_write", f"dump_end {stage}", f"{name}.json", 0))
            shape = TableShape.from_json(f"{name}.json", about)
            dumps[stage] = dump_from_json(stage, f"{name}.json", about, shape)
        kernel = kernel_version(self.stages[0][1].get("kernel", ""))
        builder = Builder(
            vcpus={tid: index for index, tid in enumerate(sorted(set(self.faulting)))},
            kernel=kernel,
            shape=self.shape,
            huge="_thp" in self.command or "hugetlb" in self.command,
            has_calls=False,
            dumps=dumps,
        )
        events = builder.run(self.items)
        return Trace(
            name=self.prefix,
            kernel=kernel,
            events=events,
            dumps=tuple(builder.dumps),
            marks=tuple(builder.marks),
            vcpus=len(builder.vcpus),
            shape=self.shape,
            has_calls=False,
            notes=("slot changes and write protection follow from the phases of the test", *builder.notes),
        )

    def _lines(self, name: str, about: dict[str, Any]) -> list[Line]:
        lines = []
        for number, entry in enumerate(about[_EVENTS]):
            try:
                task, _cpu, time, event, text = entry
                tid = int(str(task).rpartition("-")[2])
                match = _TIME.fullmatch(time)
                if match is None:
                    raise ValueError(f"{time!r} is no time")
                time_us = int(match[1]) * 1_000_000 + int(match[2])
            except (TypeError, ValueError) as error:
                fail(f"{name}.json", None, f"{_EVENTS}[{number}]: expected [task-tid, cpu, time, event, text]: {error}")
            lines.append(Line(time_us, tid, str(event), str(text), f"{name}.json:{_EVENTS}", number))
        return lines

    def _read_slots(self, name: str, about: dict[str, Any], stage: str) -> list[Slot]:
        slots = []
        for text in about.get("memslots", ()):
            match = _SLOT.fullmatch(str(text))
            if match is None:
                fail(f"{name}.json", None, f"expected a slot as 'id=0 flags=0 gpa=0 size=.. hva=..', found {text!r}")
            slot_id, flags, gpa, size, hva = int(match[1]), *(int(group, 16) for group in match.groups()[1:])
            # The test turns logging off before it reads everything again; the list still shows the flags before that.
            slots.append(Slot(slot_id, gpa, size, hva, 0 if stage == "pt_adjusted" else flags))
        return slots

    # --- what the test does between two phases ---------------------------------------------------------------------

    def _phase(self, stage: str, slots: list[Slot], time_us: int) -> None:
        for slot in slots:
            old = self.slots.get(slot.id)
            self.slots[slot.id] = slot
            if old is None:
                self.items.append(SlotEvent(time_us, SlotChange.CREATE, slot))
            elif old != slot:
                change = SlotChange.FLAGS if replace(old, flags=slot.flags) == slot else SlotChange.MOVE
                self.items.append(SlotEvent(time_us, change, slot))
            if slot.flags & LOG_DIRTY and not (old and old.flags & LOG_DIRTY):
                self._logging_on(slot, time_us)
        if stage.endswith("_cleared"):
            for slot in slots:
                if slot.flags & LOG_DIRTY:
                    self._log_fetched(slot, time_us)

    def _logging_on(self, slot: Slot, time_us: int) -> None:
        self.dirty[slot.id] = set()
        if self.manual:
            self.all_dirty.add(slot.id)
        else:
            self._protect(slot.ipa, slot.size, time_us)

    def _log_fetched(self, slot: Slot, time_us: int) -> None:
        page = self.shape.page_size
        if slot.id in self.all_dirty:
            self.all_dirty.discard(slot.id)
            self._protect(slot.ipa, slot.size, time_us)
        words: dict[int, list[int]] = {}
        for number in sorted(self.dirty[slot.id]):
            words.setdefault(number // _WORD, []).append(number)
        for numbers in words.values():
            self._protect(slot.ipa + numbers[0] * page, (numbers[-1] + 1 - numbers[0]) * page, time_us)
        self.dirty[slot.id] = set()

    def _protect(self, ipa: int, size: int, time_us: int) -> None:
        text = f"addr={ipa:#x} size={size:#x}"
        self.items.append(Line(time_us, 0, "s2_wrprotect", text, self.prefix, 0))

    def _watch(self, line: Line) -> None:
        """Note which threads are vCPUs, and which pages a logged slot has dirty."""
        if line.event != "kvm_guest_fault":
            return
        self.faulting.append(line.tid)
        match = _FAULT.fullmatch(line.text)
        if match is None or not is_write(int(match[2], 16)):
            return
        ipa = int(match[1], 16)
        for slot in self.slots.values():
            if ipa in slot and slot.flags & LOG_DIRTY:
                self.dirty[slot.id].add((ipa - slot.ipa) // self.shape.page_size)
