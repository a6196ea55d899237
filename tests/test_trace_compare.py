"""Causes of differences: what KVM drops and an exact split keeps is told apart from errors."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from trace_simulation import Simulation
from trace_tape import BLOCK, HVA, PAGE, RAM, WRITE_L3, Tape
from traces import guest, run

from s2pt.trace import Kind, Trace
from s2pt.trace.compare import Cause, Comparison, LevelDifference, compare


class Replay(Simulation):
    """The simulation, giving what a replay gives: the table at each dump and the levels that differ."""

    def __init__(self, trace: Trace, **options: object) -> None:
        super().__init__(trace, **options)  # type: ignore[arg-type]
        self.snapshots: list[tuple[int, int, npt.NDArray[np.uint64]]] = []
        self.levels: list[tuple[int, int, int, int]] = []

    def step(self, row: int, event: dict[str, int]) -> None:
        if event["kind"] == Kind.DUMP:
            leaves = np.array(self.table.leaves(), dtype=np.uint64).reshape(-1, 5)
            self.snapshots.append((row, event["ref"], leaves))
        super().step(row, event)

    def check_level(self, row: int, event: dict[str, int]) -> None:
        before = len(self.result.differing)
        super().check_level(row, event)
        if len(self.result.differing) > before:
            self.levels.append((row, event["ipa"], event["esr"] & 3, self.table.walk(event["ipa"])[0]))


def compared(trace: Trace, **options: object) -> tuple[list[Comparison], list[LevelDifference]]:
    replay = Replay(trace, **options)
    replay.run()
    return compare(trace, replay.snapshots, replay.levels)


def test_equal_tables_have_no_differences() -> None:
    (end,), levels = compared(guest("thpon_2vcpu"), sizes="calls")
    assert (end.name, end.theirs, end.ours, end.same, end.differences, levels) == ("end", 52, 52, 52, [], [])


def test_every_leaf_that_exact_split_keeps_is_explained() -> None:
    comparisons, levels = compared(guest("migrate_2vcpu"), sizes="calls", exact=True)
    assert [one.causes() for one in comparisons] == [{Cause.KEPT.value: 8729}, {Cause.KEPT.value: 898}]
    assert [one.counts() for one in comparisons] == [{"only ours": 8729}, {"only ours": 898}]
    assert [one.same for one in comparisons] == [8135, 19113]
    assert [one.cause for one in levels] == [Cause.IN_FLIGHT, Cause.IN_FLIGHT]


def test_sizes_by_rule_differ_only_by_what_was_kept() -> None:
    comparisons, levels = compared(guest("migrate_2vcpu"), sizes="rule", exact=True)
    causes = sum((Counter(one.causes()) for one in comparisons), Counter())
    assert set(causes) == {Cause.KEPT.value, Cause.FOLLOWS.value}
    assert Cause.UNKNOWN not in {one.cause for one in levels}


@pytest.mark.parametrize("prefix", ["k612_trace_thp", "k612_trace_pt_thp"])
def test_runs_without_recorded_calls_are_explained_too(prefix: str) -> None:
    comparisons, levels = compared(run(prefix), sizes="rule", exact=True)
    causes = sum((Counter(one.causes()) for one in comparisons), Counter())
    assert causes
    assert Cause.UNKNOWN.value not in causes
    assert {one.cause for one in levels} <= {Cause.NO_TIMES, Cause.HOST_CHANGED}


def split(folder: Path) -> Trace:
    """Write a trace: a block, one page of it mapped anew, a dump."""
    tape = Tape(folder, thp="[always] madvise never")
    tape.fault(100, RAM, WRITE_L3)
    tape.map(100, RAM, BLOCK, 0x6000_0000, 6)
    tape.fault(100, RAM + PAGE, WRITE_L3)
    tape.map(100, RAM + PAGE, PAGE, 0x6000_1000, 6)
    tape.line(7, "kvm_age_hva", f"mmu notifier age hva: {HVA:#016x} -- {HVA + PAGE:#016x}")
    tape.dump("end", [[hex(RAM + PAGE), hex(PAGE), "0x60001000", 3, "0x400000000004ff"]], [])
    return tape.read()


def leaves(*rows: tuple[int, int, int, int, int]) -> npt.NDArray[np.uint64]:
    return np.array(rows, dtype=np.uint64).reshape(-1, 5)


@pytest.mark.parametrize(
    ("ours", "expected"),
    [
        ([(1, 0, 12, 1)], []),
        ([(0, 0, 12, 1), (1, 0, 12, 1)], [("only ours", Cause.KEPT)]),
        ([(1, 0, 15, 1)], [("prot", Cause.FOLLOWS)]),
        ([(1, 0, 8, 1)], [("prot", Cause.UNKNOWN)]),
        ([(1, 0x5000, 12, 1)], [("pa", Cause.UNKNOWN)]),
        ([], [("only theirs", Cause.UNKNOWN)]),
        ([(1, 0, 12, 1), (600, 0, 12, 1)], [("only ours", Cause.UNKNOWN)]),
        ([(1, 0, 12, 0)], [("af", Cause.UNKNOWN)]),
    ],
)
def test_cause_of_a_leaf(
    tmp_path: Path, ours: list[tuple[int, int, int, int]], expected: list[tuple[str, Cause]]
) -> None:
    trace = split(tmp_path)
    (row,) = np.flatnonzero(trace.events["kind"] == Kind.DUMP)
    table = leaves(*((RAM + n * PAGE, PAGE, 0x6000_0000 + n * PAGE + pa, prot, af) for n, pa, prot, af in ours))
    (one,), _ = compare(trace, [(int(row), 0, table)])
    assert [(difference.what, difference.cause) for difference in one.differences] == expected
