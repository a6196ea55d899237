"""A table with KVM's semantics against recorded runs of KVM's own code, and the runner that compares them."""

from __future__ import annotations

import copy
import gzip
import json
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest

from s2pt.testing.kvm import DEVIATIONS, Case, load, replay
from s2pt.testing.kvm.__main__ import main
from s2pt.testing.kvm.table import Table

FILE = Path(__file__).parent / "data" / "kvm-conformance" / "cases.json.gz"
CASES = load(FILE)
# A whole gigabyte unmapped page by page, with a TLBI and a cache operation for each.
SLOW = "directed noFWB: 1G split with 513 pages goes to 4K in one step"
RW_PAGE, NOT_EXECUTABLE = 0x7FF, 1 << 54


def named(seed: str) -> Case:
    """Find a case of the recording."""
    return next(case for case in CASES if case.seed == seed)


def raw(case: Case) -> dict[str, Any]:
    """Write a case as the file has it."""
    return {
        "seed": case.seed,
        "version": 612,
        "shift": case.shift,
        "ia_bits": case.ia_bits,
        "flags": case.flags,
        "ops": list(case.operations),
        "results": list(case.results),
        "final": case.final,
    }


def with_results(case: Case, results: list[dict[str, Any]]) -> Case:
    """Make the case with other results."""
    return Case(case.seed, case.shift, case.ia_bits, case.flags, case.operations, results, case.final)


def test_every_recorded_operation() -> None:
    deviations = 0
    for case in CASES:
        if case.seed != SLOW:
            outcome = replay(case)
            assert not outcome.differences, str(outcome.differences[0])
            deviations += outcome.deviations.total()
    assert deviations < 0.05 * sum(len(case.operations) for case in CASES)


@pytest.mark.campaign
def test_the_slow_one() -> None:
    assert not replay(named(SLOW)).differences


@pytest.mark.parametrize("case", [case for case in CASES if "race" in case.seed], ids=lambda case: case.seed)
def test_races_on_another_thread(case: Case) -> None:
    assert any(operation[0] == "nest" for operation in case.operations)
    assert not replay(case, other_thread=True).differences


# --- the runner notices --------------------------------------------------------------------------------------------


def changed(result: dict[str, Any], name: str) -> None:
    """Change one part of a recorded result."""
    if name == "tlbi more":
        result["tlbi"] = [*result["tlbi"], ["ipa", 3, 0x7000, 0, 1, 0]]
    elif name == "tlbi less":
        result["tlbi"] = []
    elif name == "cmo more":
        result["cmo"] = [*result["cmo"], ["ic", 0, 0x7000, 4096, 1, 0]]
    elif name == "cmo less":
        result["cmo"] = []
    else:
        result[name] += 1


@pytest.mark.parametrize("what", ["r", "alloc", "freed", "crc", "tlbi more", "tlbi less", "cmo more", "cmo less"])
def test_a_changed_result_is_a_difference(what: str) -> None:
    case = named("directed: race: leaf replacement")
    number = next(i for i, operation in enumerate(case.operations) if operation[0] == "nest")
    results = copy.deepcopy(list(case.results))
    changed(results[number], what)
    differences = replay(with_results(case, results)).differences
    assert [difference.operation for difference in differences][:1] == [number]


@pytest.mark.parametrize("what", ["vtcr", "in_use", "start_level", "pgd_pages", "leaves", "tables"])
def test_a_changed_end_is_a_difference(what: str) -> None:
    case = named("directed: same mapping and perm-only change")
    final = copy.deepcopy(case.final)
    if isinstance(final[what], int):
        final[what] += 1
    else:
        final[what][0][2] += 4
    changed_case = Case(case.seed, case.shift, case.ia_bits, case.flags, case.operations, case.results, final)
    assert [difference.operation for difference in replay(changed_case).differences] == [None]


def test_an_inner_operation_is_compared() -> None:
    case = named("directed: race: leaf replacement")
    results = copy.deepcopy(list(case.results))
    inner = next(result["inner"] for result in results if "inner" in result)
    inner[0]["r"] = 0
    assert "inner operation 0" in str(replay(with_results(case, results)).differences[0])


# --- deviations ----------------------------------------------------------------------------------------------------


def checksum(*leaves: tuple[int, int, int]) -> int:
    """Compute the checksum of these leaves: ipa, level, entry."""
    return zlib.crc32(b"".join(struct.pack("<QqQ", *leaf) for leaf in leaves))


def split_pages(attributes: int) -> list[tuple[int, int, int]]:
    """List the leaves of a split 2 MiB block at 0 that maps 0."""
    return [(page << 12, 3, page << 12 | attributes) for page in range(512)]


END = {"leaves": [], "tables": [], "in_use": 0, "pgd_pages": 0, "start_level": 0, "vtcr": 0}
# What KVM answers to the last operation of each example, and what is then in the table: no FWB, no range TLBIs.
KVM: dict[str, tuple[int, list[tuple[int, int, int]], int, int, list[Any], list[Any]]] = {
    "wrapped-range": (0, [], 0, 0, [], []),
    "empty-range": (0, [], 0, 0, [], []),
    "pa-limit": (0, [], 2, 0, [], []),
    "device-split": (0, split_pages(RW_PAGE | NOT_EXECUTABLE), 2, 0, [["ipa", 2, 0, 0, 1, 0]], []),
    "device-execute": (0, [(0, 3, 0x7C7)], 2, 0, [["ipa_nsh", 3, 0, 0, 1, 0]], []),
    "mark-lost": (0, [(0, 2, 0x7FD | NOT_EXECUTABLE)], 2, 1, [["vmid", 0, 0, 0, 1, 0]], [["dc", 0, 0, 2 << 20, 1, 0]]),
    "locked-kept": (0, [(0, 3, RW_PAGE | NOT_EXECUTABLE)], 2, 0, [], []),
    "short-flush": (0, [], 2, 2, [["ipa", 0x7FFFFFFF, 0, 0, 2, 0]], []),
    "unchecked-flush": (0, [], 0, 0, [], []),
    "no-frame-for-a-loser": (-11, [(0, 2, 0x400)], 2, 1, [], []),
}


@pytest.mark.parametrize("deviation", DEVIATIONS, ids=lambda deviation: deviation.name)
def test_each_deviation_goes_on_from_kvms_state(deviation: Any) -> None:
    operations = json.loads(f"[{deviation.example}]")
    flags = 0x300 if deviation.name in ("short-flush", "unchecked-flush") else 0
    r, leaves, taken, freed, tlbi, cmo = KVM[deviation.name]
    if flags:
        leaves = [(ipa, level, entry & ~0x3C | 0x18) for ipa, level, entry in leaves]
    table, results = Table(Case("setup", 12, 40, flags, [], [], {})), []
    for operation in operations[:-1]:
        # What comes before is no deviation, and other tests hold it against KVM.
        answer = table.run(operation)
        result = {
            "r": answer.r,
            **dict(answer.extra),
            "alloc": table.allocated,
            "freed": table.freed,
            "crc": table.checksum(),
        }
        results.append(result | {"tlbi": [["range", 0, 0, 0, 9, 0]], "cmo": [["dc", 0, 0, 0, 9, 0]]})
    results.append(
        {"r": r, "alloc": taken, "freed": freed, "crc": checksum(*leaves), "left": 0, "tlbi": tlbi, "cmo": cmo}
    )
    case = Case("example", 12, 40, flags, operations, results, END)
    outcome = replay(case)
    wrong = [difference for difference in outcome.differences if difference.operation is not None]
    assert not wrong, str(wrong[0])
    assert outcome.deviations[deviation.name] == 1


# --- the command ---------------------------------------------------------------------------------------------------


def test_the_command_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "one.json"
    file.write_text(json.dumps([raw(named("directed: owner annotations"))]))
    assert main([str(file), "--explain"]) == 0
    out = capsys.readouterr().out
    assert f"1 cases, {len(named('directed: owner annotations').operations)} operations, 0 differences" in out
    assert all(deviation.name in out and deviation.why in out for deviation in DEVIATIONS)


def test_the_command_fails_on_a_difference(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = raw(copy.deepcopy(named("directed: owner annotations")))
    case["results"][0]["crc"] ^= 1
    file = tmp_path / "one.json.gz"
    file.write_bytes(gzip.compress(json.dumps([case]).encode()))
    assert main([str(file)]) == 1
    assert "checksum of the leaves" in capsys.readouterr().out


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"[1]",
        b"[{}]",
        b"\x1f\x8b\x08broken",
        b"\xfd7zXZ\x00broken",
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps([raw(CASES[0]) | {"shift": 13}]).encode(),
        json.dumps([raw(CASES[0]) | {"ops": [["map"]]}]).encode(),
        json.dumps([raw(CASES[0]) | {"ops": [["fly", 1]], "results": [{}]}]).encode(),
        json.dumps([raw(CASES[0]) | {"flags": 0x8000}]).encode(),
        json.dumps([raw(CASES[0]) | {"final": {}}]).encode(),
    ],
)
def test_a_bad_file_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes) -> None:
    file = tmp_path / "bad.json"
    file.write_bytes(content)
    assert main([str(file)]) == 2
    err = capsys.readouterr().err
    assert err.startswith(f"error: {file}")
    assert err.count("\n") == 1


def test_a_missing_file_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["/nowhere/at/all.json"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
