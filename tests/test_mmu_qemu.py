"""Our walks, registers and syndromes beside QEMU's MMU; skipped where QEMU is not installed."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import pytest

from s2pt.testing.mmu import qemu
from s2pt.testing.mmu.assemble import PROGRAMS, assemble
from s2pt.testing.mmu.campaign import run_qemu
from s2pt.testing.mmu.guest import PLACES, QemuOracle
from s2pt.testing.mmu.judge import Report, judge
from s2pt.testing.mmu.known import Known
from s2pt.testing.mmu.qemu import Batch, QemuMachine
from s2pt.testing.mmu.shapes import Shape
from s2pt.testing.mmu.sweep import expected, values
from s2pt.testing.mmu.table import OracleError, OracleMissingError, answers_of
from s2pt.testing.mmu.trees import tree

needs_qemu = pytest.mark.skipif(
    not QemuMachine.version(), reason=f"{qemu.BINARY} is not installed: no second MMU to judge ours"
)
SHAPE = Shape(page_bits=12, ipa_bits=40, start=1, pa_bits=48, xnx=True)
DIRTY = Shape(page_bits=12, ipa_bits=40, start=1, pa_bits=48, xnx=True, ha=True, hd=True)


@pytest.fixture(scope="module")
def oracle() -> Iterator[QemuOracle]:
    oracle = QemuOracle()
    yield oracle
    oracle.close()


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_kept_program_is_that_of_the_source(name: str) -> None:
    pytest.importorskip("keystone")
    assert qemu.binary(name) == assemble(name)


def test_the_sweep_has_values_of_all_kinds() -> None:
    cases = [expected(vtcr) for vtcr in values()]
    assert len(cases) == len({case.vtcr for case in cases}) == 1 << 15
    assert sum(case.geometry is not None for case in cases) > 3000
    assert {case.geometry.start_level for case in cases if case.geometry} == {-1, 0, 1, 2, 3}


def test_a_missing_qemu_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(qemu, "BINARY", "qemu-system-aarch64-that-nobody-has")
    with pytest.raises(OracleMissingError, match="is not installed"):
        QemuMachine()


@needs_qemu
def test_qemu_agrees_with_every_walk_and_every_vtcr() -> None:
    report = run_qemu(seed=1, probes=20_000)
    assert report.mismatched == 0, "\n".join(map(str, report.mismatches[:5]))
    assert report.sweep["values"] == 1 << 15
    for kind in ("hit", "translation", "access flag", "permission", "address size", "external abort"):
        assert report.outcomes[kind] > 20, report.outcomes
    assert set(report.applied) <= set(Known)


@needs_qemu
@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(4))
def test_qemu_agrees_a_quarter_of_a_million_times(seed: int) -> None:
    report = run_qemu(seed, probes=250_000)
    assert report.mismatched == 0, "\n".join(map(str, report.mismatches[:5]))
    assert len(report.configurations) >= 28


@needs_qemu
@pytest.mark.parametrize(
    ("field", "wrong"),
    [("hpfar", "syndrome of"), ("esr", "syndrome of"), ("far", "syndrome of"), ("value", "loaded")],
)
def test_wrong_registers_and_loads_are_noticed(oracle: QemuOracle, field: str, wrong: str) -> None:
    table = tree(SHAPE, PLACES, seed=2, probes=800)
    report = Report()
    judge(oracle, table, report)
    assert report.mismatched == 0, report.mismatches[:1]
    ours = answers_of(table.image(), table.probes)
    oracle._results[field] ^= np.uint64(0x40)
    assert any(wrong in text for text in oracle.check(table, ours))


@needs_qemu
def test_updates_of_entries_and_stores_are_noticed(oracle: QemuOracle) -> None:
    table = tree(DIRTY, PLACES, seed=4, probes=800)
    ours = answers_of(table.image(), table.probes)
    oracle.ask(table)
    assert oracle.check(table, ours) == []
    oracle.ask(table)
    # As if our walks had said that the hardware updates nothing, and that stores go elsewhere.
    ours["after"] = ours["raw"]
    ours["pa"] ^= np.uint64(0x1000)
    found = oracle.check(table, ours)
    assert any(text.startswith("entry 0x") for text in found)
    assert any(text.startswith("after all stores 0x") for text in found)
    assert any("loaded 0x" in text for text in found)


@needs_qemu
def test_a_machine_that_died_is_an_error() -> None:
    with QemuMachine(timeout_s=30) as machine:
        machine._process.kill()
        with pytest.raises(OracleError, match="ended with code -9 after 0 probes"):
            machine.run(Batch(SHAPE.vtcr, qemu.ARENA, qemu.HCR, 0, np.zeros(1, qemu.RAW_PROBE)))


@needs_qemu
def test_a_machine_that_hangs_is_an_error() -> None:
    with QemuMachine(timeout_s=0.2) as machine:
        machine._process.send_signal(signal.SIGSTOP)
        with pytest.raises(OracleError, match=r"did not answer within 0.2 s: 0 of 1 probes are done"):
            machine.run(Batch(SHAPE.vtcr, qemu.ARENA, qemu.HCR, 0, np.zeros(1, qemu.RAW_PROBE)))


@needs_qemu
def test_a_machine_that_nobody_rings_switches_itself_off() -> None:
    with QemuMachine(idle_s=1) as machine:
        assert machine._process.wait(timeout=60) == 0


@needs_qemu
def test_a_guest_without_its_page_is_a_mismatch(oracle: QemuOracle) -> None:
    table = tree(SHAPE, PLACES, seed=2, probes=50)
    table.guest_page ^= 1 << 39
    report = Report()
    judge(oracle, table, report)
    assert report.mismatched == 1
    assert "went astray" in str(report.mismatches[0])
