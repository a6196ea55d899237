"""Our walks beside unicorn's MMU, and the command that compares them."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from s2pt import Prot, Stage2
from s2pt.testing.mmu import qemu
from s2pt.testing.mmu.__main__ import main
from s2pt.testing.mmu.campaign import run_unicorn
from s2pt.testing.mmu.judge import Report, judge
from s2pt.testing.mmu.known import Applied, Known
from s2pt.testing.mmu.own import own
from s2pt.testing.mmu.shapes import Shape, shapes
from s2pt.testing.mmu.table import Table, answers_of
from s2pt.testing.mmu.trees import tree
from s2pt.testing.mmu.unicorn import PLACES, UnicornOracle, shapes_for

SHAPE = Shape(page_bits=12, ipa_bits=40, start=1, pa_bits=44)


@pytest.fixture(scope="module")
def oracle() -> UnicornOracle:
    return UnicornOracle()


def test_unicorn_agrees_with_every_walk() -> None:
    report = run_unicorn(seed=1, probes=100_000)
    assert report.mismatched == 0, "\n".join(map(str, report.mismatches[:5]))
    # Shapes come in turns: all of them were met, and answers of every kind that this oracle can give.
    met = {name.split(" ", 1)[1] for name in report.configurations}
    for shape in shapes_for():
        assert any(str(replace(shape, pa_bits=bits)) in met for bits in (36, 40, 42, 44)), shape
    assert {name for name in report.configurations if name.startswith("own")}
    for kind in ("hit", "translation", "access flag", "permission"):
        assert report.outcomes[kind] > 1000, report.outcomes
    assert set(report.applied) <= set(Known)
    assert sum(report.applied.values()) < report.probes / 20


@pytest.mark.campaign
@pytest.mark.parametrize("seed", range(4))
def test_unicorn_agrees_a_million_times(seed: int) -> None:
    report = run_unicorn(seed, probes=1_000_000)
    assert report.mismatched == 0, "\n".join(map(str, report.mismatches[:5]))


def test_every_concatenation_is_among_the_shapes() -> None:
    found = {(s.page_bits, s.start, s.root_frames) for s in shapes(ipa_bits=range(16, 53), lpa2=True)}
    for page_bits, start in [(12, 2), (12, 1), (12, 0), (14, 2), (14, 1), (16, 2)]:
        assert {frames for p, s, frames in found if (p, s) == (page_bits, start)} == {1, 2, 4, 8, 16}
    assert {(s.page_bits, s.start) for s in shapes(ipa_bits=range(16, 53), lpa2=True)} >= {(12, -1), (14, 0), (16, 1)}


def test_one_flipped_bit_of_the_table_is_noticed(oracle: UnicornOracle) -> None:
    made = own(SHAPE, PLACES, seed=5, probes=500)
    report = Report()
    judge(oracle, made.table, report)
    assert report.mismatched == 0
    # The oracle gets another table than our walk.
    image = made.table.image()
    ours = answers_of(image, made.table.probes)
    row = ours[np.flatnonzero(ours["fault"] == 0)[0]]
    for base, words in made.table.regions:
        if base <= row["entry"] < base + words.nbytes:
            words[(int(row["entry"]) - base) // 8] ^= np.uint64(1 << 30)
    theirs = oracle.ask(made.table)
    assert ((ours["fault"] == 0) & (ours["pa"] != theirs["pa"])).any()


def test_a_mismatch_is_explained(oracle: UnicornOracle) -> None:
    table = tree(SHAPE, PLACES, seed=3, probes=300)
    honest = oracle.ask(table)

    class Liar:
        name = "liar"

        def ask(self, table: Table) -> np.ndarray:
            answers = honest.copy()
            hits = answers["pa_known"]
            answers["pa"][hits] ^= np.uint64(0x1000)
            return answers

        def check(self, *_: object) -> list[str]:
            return []

        def excuse(self, *_: object) -> None:
            pass

        def close(self) -> None:
            pass

    report = Report()
    judge(Liar(), table, report)
    assert report.mismatched > 0
    text = str(report.mismatches[0])
    assert all(part in text for part in ("ours 0x", "the oracle's 0x", "VTCR_EL2 0x", "OA [47:"))


def test_known_faults_are_excused_only_where_they_apply(oracle: UnicornOracle) -> None:
    table = tree(replace(SHAPE, ipa_bits=40, start=0), PLACES, seed=1, probes=1000)
    ours = answers_of(table.image(), table.probes)
    theirs = oracle.ask(table)
    theirs["pa"][theirs["pa_known"]] ^= np.uint64(1 << 40)
    applied = Applied()
    before = theirs.copy()
    oracle.excuse(table, ours, theirs, applied)
    changed = before["pa"] != theirs["pa"]
    reserved = (ours["fault"] == 1) & (ours["raw"] & np.uint64(3) == 1)
    assert not (changed & ~reserved).any()


def test_an_image_answers_accesses_as_hardware_does() -> None:
    with Stage2(40, pa_bits=44, ha=False) as s2:
        s2.map(0x8000_0000, 4096, 0x9_0000_0000, Prot.RX)
        s2.map(0x8000_1000, 4096, 0x9_0000_1000, Prot.RW, af=False)
        image = s2.image()
        assert image.translate(0x8000_0123, "x").pa == 0x9_0000_0123
        rows = image.access_many(np.array([0x8000_0000, 0x8000_1000, 0x8000_2000], np.uint64), "w")
        assert rows["fault"].tolist() == [3, 2, 1]
        assert rows["level"].tolist() == [3, 3, 3]


def test_the_command_reports() -> None:
    command = [sys.executable, "-m", "s2pt.testing.mmu", "--seed", "7", "--probes", "3000", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["probes"] == 3000
    assert result["mismatched"] == 0


@pytest.mark.parametrize(
    "arguments",
    [
        ("--oracle", "bochs"),
        ("--probes", "0"),
        ("--probes", "many"),
        ("--seed", "x"),
        ("--probes", "-5"),
        ("extra",),
        ("--timeout", "nan"),
    ],
)
def test_wrong_arguments_are_one_line_and_code_2(
    arguments: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        main(list(arguments))
    assert refused.value.code == 2
    said = capsys.readouterr()
    assert len(said.err.strip().splitlines()) == 1, said.err
    assert said.out == ""


def test_an_oracle_that_is_not_there_is_one_line_and_code_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(qemu, "BINARY", "qemu-system-aarch64-that-nobody-has")
    assert main(["--oracle", "qemu"]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_a_mismatch_is_code_1(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    ask = UnicornOracle.ask

    def refuse_all(oracle: UnicornOracle, table: Table) -> np.ndarray:
        answers = ask(oracle, table)
        answers["fault"][answers["fault"] == 0] = 3
        return answers

    monkeypatch.setattr(UnicornOracle, "ask", refuse_all)
    assert main(["--probes", "300", "--until-mismatch"]) == 1
    assert "the oracle's" in capsys.readouterr().out
