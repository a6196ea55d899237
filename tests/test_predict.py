"""The contention model: closed forms, its calibration, the cover letter's figures, the command."""

from __future__ import annotations

import json
import math
import sys
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

import pytest

from s2pt.cli.app import run
from s2pt.errors import OptionError
from s2pt.lab.calibrate import INSIDE_ROW, cover_letter, from_runs
from s2pt.lab.contention import rate
from s2pt.lab.costs import Costs, Demand, Machine, Workload, demand
from s2pt.lab.fit import FITTED_COSTS, fit, letter_seconds
from s2pt.lab.letter import MACHINE, WORK, figures
from s2pt.lab.passes import Rates, pass_seconds
from s2pt.lab.predict import predict
from s2pt.types import Policy

BIG = Machine(cores=4096)
WORK_ONLY = Demand(outside_ns=300, inside_ns=500, stall_ns=0, line_ns=60, bus_ns=0, host_line=False)
KVM_LIKE = replace(WORK_ONLY, host_line=True)


def fault_ns(work: Demand, policy: str, vcpus: int, machine: Machine = BIG, **options: Any) -> float:
    """Nanoseconds from one fault done to the next, of all vCPUs together."""
    return 1 / rate(work, machine, Policy(policy), vcpus, **options)


# --- queues with known answers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("work", [WORK_ONLY, KVM_LIKE], ids=["table", "host"])
def test_one_vcpu_waits_for_nobody(work: Demand, policy: Policy) -> None:
    assert fault_ns(work, policy, 1) == pytest.approx(800, rel=0.02)


@pytest.mark.parametrize("vcpus", [4, 16, 64])
def test_an_exclusive_lock_lets_one_through_at_a_time(vcpus: int) -> None:
    assert fault_ns(WORK_ONLY, "serial", vcpus) == pytest.approx(500 + 2 * 60, rel=0.02)


@pytest.mark.parametrize("vcpus", [2, 3, 5])
def test_an_exclusive_lock_that_is_hardly_used_costs_a_moved_line(vcpus: int) -> None:
    mostly_outside = replace(WORK_ONLY, outside_ns=100_000, inside_ns=100)
    assert vcpus * fault_ns(mostly_outside, "serial", vcpus) == pytest.approx(100_160, rel=0.02)


@pytest.mark.parametrize("vcpus", [2, 8, 32])
def test_no_lock_scales_with_the_vcpus(vcpus: int) -> None:
    assert vcpus * fault_ns(WORK_ONLY, "lockless", vcpus) == pytest.approx(800, rel=0.02)


def test_a_shared_lock_ends_where_its_line_is_always_on_the_move() -> None:
    assert fault_ns(WORK_ONLY, "parallel", 64) == pytest.approx(2 * 60, rel=0.02)
    # One line after the other: the second queue drains what the first lets through.
    assert fault_ns(KVM_LIKE, "parallel", 64) == pytest.approx(2 * 60, rel=0.03)
    assert fault_ns(KVM_LIKE, "lockless", 64) == pytest.approx(2 * 60, rel=0.03)


@pytest.mark.parametrize("vcpus", [2, 4, 8])
def test_a_fault_waits_longer_for_the_line_with_more_readers(vcpus: int) -> None:
    def latency(count: int) -> float:
        return count * fault_ns(WORK_ONLY, "parallel", count)

    assert latency(vcpus // 2) < latency(vcpus)


def test_memory_is_filled_as_fast_as_the_bus_allows() -> None:
    fills = replace(WORK_ONLY, outside_ns=40_000, bus_ns=16_000)
    assert fault_ns(fills, "lockless", 1) == pytest.approx(56_500, rel=0.02)
    assert fault_ns(fills, "lockless", 16) == pytest.approx(16_000, rel=0.01)


@pytest.mark.parametrize("policy", list(Policy))
@pytest.mark.parametrize("vcpus", [1, 2, 3, 6, 12])
def test_nothing_is_faster_than_its_bounds(policy: Policy, vcpus: int) -> None:
    took = fault_ns(KVM_LIKE, policy, vcpus)
    assert took >= 0.97 * 800 / vcpus
    assert took >= 0.97 * (500 if policy is Policy.SERIAL else 0)
    assert took <= 1.03 * (800 + 6 * 60)  # at worst one after the other, each line moved every time


def test_waiting_threads_that_sleep_leave_the_cores_to_others() -> None:
    two = Machine(cores=2, waits="sleep")
    # Work is conserved: two cores do 800 ns for each fault, whatever the number of threads.
    assert fault_ns(WORK_ONLY, "lockless", 8, two) == pytest.approx(400, rel=0.02)
    stalled = replace(WORK_ONLY, stall_ns=200_000)
    assert fault_ns(stalled, "serial", 8, two) == pytest.approx(200_500, rel=0.01)
    assert 48 * fault_ns(stalled, "lockless", 48, two, window=20) == pytest.approx(200_800, rel=0.05)


def test_vcpus_that_spin_hold_their_cores() -> None:
    four = Machine(cores=4)
    assert fault_ns(WORK_ONLY, "lockless", 64, four) == pytest.approx(200, rel=0.02)


def test_the_same_seed_gives_the_same_result() -> None:
    assert fault_ns(KVM_LIKE, "parallel", 8, seed=5) == fault_ns(KVM_LIKE, "parallel", 8, seed=5)
    assert fault_ns(KVM_LIKE, "parallel", 8, seed=5) != fault_ns(KVM_LIKE, "parallel", 8, seed=6)


# --- passes -----------------------------------------------------------------------------------------------------------


def test_a_pass_is_a_flow_of_faults() -> None:
    flat = Rates((1, 2), (0.001, 0.001))  # a fault a microsecond, of one or many
    assert pass_seconds(flat, vcpus=1, faults=10**6, start_s=0) == pytest.approx(1)
    assert pass_seconds(flat, vcpus=7, faults=10**6, start_s=0) == pytest.approx(7)
    # Who starts late is not missed while the others keep the lock busy.
    assert pass_seconds(flat, vcpus=7, faults=10**6, start_s=0.5) == pytest.approx(7)
    free = Rates((1, 8), (0.001, 0.008))
    assert pass_seconds(free, vcpus=7, faults=10**6, start_s=0.8) == pytest.approx(1 + 0.8 * 6 / 8)
    # The second starts when the first is done.
    assert pass_seconds(flat, vcpus=2, faults=1000, start_s=3) == pytest.approx(1.001)


def test_rates_between_the_simulated_ones() -> None:
    rates = Rates((1, 2, 4), (1.0, 1.5, 2.0))
    assert [rates(count) for count in (1, 2, 3, 4, 100)] == [1.0, 1.5, 1.75, 2.0, 2.0]


def test_rates_stop_where_more_vcpus_gain_nothing() -> None:
    assert Rates.simulate(WORK_ONLY, BIG, Policy.SERIAL, 1024, window=10).vcpus[-1] <= 8
    assert Rates.simulate(WORK_ONLY, Machine(cores=3), Policy.PARALLEL, 1024, window=10).vcpus == (1, 2, 3)
    alone = Rates.simulate(WORK_ONLY, BIG, Policy.LOCKLESS, 1024, window=10)
    assert alone(1024) == pytest.approx(1024 * alone(1))


def test_faults_are_those_of_the_benchmark() -> None:
    thp, huge, pages = (Workload(4 << 30, backing) for backing in ("thp", "1g", "pages"))
    assert [work.faults("populate") for work in (thp, huge, pages)] == [2048, 4, 1 << 20]
    assert {work.faults("dirty") for work in (thp, huge, pages)} == {1 << 20}


def test_tlbis_of_a_pass() -> None:
    costs = Costs(0, 0, 0, 0, 0, 1, 0, tlbi_ns=1000, tlbi_core_ns=10, split_ns=0)

    def inside(backing: str, splits: Any, cores: int = 100) -> float:
        return 512 * demand(costs, Machine(cores), Workload(1 << 30, backing, splits), "dirty").inside_ns

    # One block in 512 pages is told to 100 cores; exactly split, each page also gets a TLBI of its own core.
    assert inside("thp", "lazy") == pytest.approx(1000 + 1000)
    assert inside("thp", "exact") == pytest.approx(512 * 1000 + 1000)
    assert inside("pages", "lazy") == inside("pages", "exact") == pytest.approx(512 * 1000)
    assert inside("1g", "lazy") == pytest.approx((1000 + 1000) / 512)
    assert inside("1g", "exact") == pytest.approx(512 * 1000 + 1000 + 1000 / 512)
    assert inside("thp", "lazy", cores=1024) > inside("thp", "lazy", cores=100)


def test_impossible_workloads_are_refused() -> None:
    for make in (
        lambda: Workload(4096, "thp"),  # type: ignore[arg-type]
        lambda: Workload(0, "pages"),  # type: ignore[arg-type]
        lambda: Workload(1 << 30, "thp", "eager"),  # type: ignore[arg-type]
        lambda: Machine(0),
        lambda: Machine(1, "hope"),  # type: ignore[arg-type]
        lambda: predict(cover_letter(), vcpus=[0], memory="4GiB"),
        lambda: predict(cover_letter(), vcpus=[1], memory="4GiB", draws=1),
    ):
        with pytest.raises(OptionError):
            make()


# --- the cover letter -------------------------------------------------------------------------------------------------


def test_the_letters_figures() -> None:
    given = figures()
    fitted = [figure.fitted for figure in given]
    assert (len(given), sum(fitted)) == (28, 8)
    times = letter_seconds(cover_letter().costs, given, window=40, seed=7)
    off = [abs(time / figure.seconds - 1) for time, figure in zip(times, given, strict=True)]
    assert median(off) <= 0.10
    held_out = [error for error, used in zip(off, fitted, strict=True) if not used]
    assert len(held_out) == 20
    assert median(held_out) <= 0.10
    assert max(off) <= 0.30
    assert max(error for error, used in zip(off, fitted, strict=True) if used) <= 0.05


def test_bars_hold_the_letters_figures() -> None:
    given = figures()
    policies = (Policy.SERIAL, Policy.PARALLEL)
    counts = sorted({figure.vcpus for figure in given})
    letter = cover_letter()
    found = {
        (one.pass_, one.policy, one.vcpus): one
        for one in predict(letter, vcpus=counts, memory=WORK.memory, policies=policies, draws=3)
    }
    held = [figure for figure in given if not figure.fitted]
    inside = [found[figure[:3]].low <= figure.seconds <= found[figure[:3]].high for figure in held]
    assert sum(inside) >= 16
    assert all(one.low < one.seconds < one.high for one in found.values())
    for figure in given:
        # A bar is not so wide that it holds anything.
        assert found[figure[:3]].high < 1.6 * found[figure[:3]].low


@pytest.mark.campaign
def test_the_kept_costs_are_found_again_from_eight_figures() -> None:
    """And the other twenty are not looked at: here they are nonsense."""
    given = tuple(figure if figure.fitted else figure._replace(seconds=1e6) for figure in figures())
    found = fit(given, window=12).costs
    for name in FITTED_COSTS:
        assert getattr(found, name) == pytest.approx(getattr(cover_letter().costs, name), rel=0.12), name
    assert set(FITTED_COSTS) == set(cover_letter().names)


def test_predictions_grow_with_work_and_policy() -> None:
    began = time.process_time()
    found = predict(cover_letter(), vcpus=[1, 8, 80, 1024], memory="1TiB", draws=2)
    assert time.process_time() - began < 8  # of 1,024 TiB; about one
    by_key = {(one.pass_, one.policy, one.vcpus): one.seconds for one in found}
    assert len(found) == len(by_key) == 2 * 3 * 4
    assert all(math.isfinite(one.low) and one.faults > 0 for one in found)
    for pass_ in ("populate", "dirty"):
        for policy in Policy:
            times = [by_key[pass_, policy, count] for count in (1, 8, 80, 1024)]
            assert times[1:] == sorted(times[1:])
            assert times[0] < 1.02 * times[1]
            # Once there are more vCPUs than cores, each one more costs its share.
            assert times[3] == pytest.approx(1024 / 80 * times[2], rel=0.01)
        assert by_key[pass_, Policy.LOCKLESS, 1024] < 1.05 * by_key[pass_, Policy.PARALLEL, 1024]
        assert 2 * by_key[pass_, Policy.PARALLEL, 1024] < by_key[pass_, Policy.SERIAL, 1024]


def test_without_the_hosts_lock_only_lockless_keeps_scaling() -> None:
    options = {"vcpus": [512], "memory": "1GiB", "passes": ["dirty"], "cores": 512, "draws": 2, "host_lock": False}
    parallel, lockless = predict(cover_letter(), policies=["parallel", "lockless"], **options)  # type: ignore[arg-type]
    assert 40 * lockless.seconds < parallel.seconds


def test_more_cores_never_hurt() -> None:
    times = [
        predict(
            cover_letter(), vcpus=[64], memory="4GiB", policies=["parallel"], passes=["dirty"], cores=cores, draws=2
        )
        for cores in (1, 4, 16, 64)
    ]
    seconds = [one.seconds for (one,) in times]
    assert all(later < 1.03 * earlier for earlier, later in pairwise(seconds))
    assert seconds[0] > 4 * seconds[-1]


# --- calibration by runs ----------------------------------------------------------------------------------------------


def document(*, dirty_ns: int, populate_ns: int, quiet_ns: int, stall: int = 0, vcpus: int = 1) -> dict[str, Any]:
    """Give what dirty-log prints for one vCPU of 4 MiB in blocks."""

    def phase(name: str, elapsed_ns: int, faults: int) -> dict[str, Any]:
        return {"phase": name, "elapsed_ns": elapsed_ns, "faults": {"permission_write": faults}}

    phases = [phase("populate", populate_ns, 2), phase("dirty 1", quiet_ns, 0), phase("dirty 2", dirty_ns, 1024)]
    runs = [{"policy": policy.value, "vcpus": vcpus, "accesses": 1024, "phases": phases} for policy in Policy]
    options = {"bytes_per_vcpu": 4 << 20, "backing": "thp", "write_percent": 100, "stall_tlbi_ns": stall}
    return {"command": "dirty-log", "options": options, "runs": runs}


BENCH = {"command": "bench", "rows": [{"id": INSIDE_ROW, "median_ns": 150.0}]}


def test_a_run_is_taken_apart() -> None:
    run_ = document(dirty_ns=1024 * 400, populate_ns=2 * 60_400, quiet_ns=1024 * 50)
    costs = from_runs([run_, BENCH], cores=2).costs
    assert (costs.outside_ns, costs.inside_ns, costs.stall_ns) == (250, 150, 0)
    assert costs.fill_ns == 60_000
    assert from_runs([run_]).costs.inside_ns == 175  # half of what is more than an access


def test_stalls_are_as_long_as_they_were() -> None:
    run_ = document(dirty_ns=1024 * 300_000, populate_ns=2 * 60_400, quiet_ns=1024 * 50, stall=200_000)
    found = from_runs([BENCH, run_], cores=2)
    assert (found.costs.outside_ns, found.costs.inside_ns, found.costs.stall_ns) == (50, 150, 299_800)
    serial, lockless = predict(
        found, vcpus=[8], memory="4MiB", policies=["serial", "lockless"], passes=["dirty"], draws=2
    )
    assert serial.seconds == pytest.approx(8 * 1024 * 300e-6, rel=0.02)
    assert lockless.seconds == pytest.approx(1024 * 300e-6, rel=0.02)


GOOD = document(dirty_ns=400_000, populate_ns=2000, quiet_ns=1000)


@pytest.mark.parametrize(
    ("documents", "says"),
    [
        ([], "dirty-log --json"),
        ([BENCH], "dirty-log --json"),
        ([GOOD, GOOD], "two documents"),
        ([{"command": "predict"}], "predict"),
        ([{**GOOD, "runs": None}], "runs"),
        ([document(dirty_ns=1, populate_ns=1, quiet_ns=1, vcpus=2)], "one vCPU"),
        ([{**GOOD, "options": {**GOOD["options"], "write_percent": 50}}], "all accesses write"),
        ([{**GOOD, "runs": [{**GOOD["runs"][0], "phases": GOOD["runs"][0]["phases"][:2]}]}], "two iterations"),
        ([GOOD, {"command": "bench", "rows": []}], INSIDE_ROW),
    ],
)
def test_documents_of_another_kind_are_refused(documents: list[dict[str, Any]], says: str) -> None:
    with pytest.raises(OptionError, match=says):
        from_runs(documents)


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_predicts_from_a_real_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["dirty-log", "-v", "1", "-b", "2MiB", "-s", "thp", "--stall-tlbi", "100us", "--json"]) == 0
    said = capsys.readouterr().out
    measured = [
        phase["elapsed_ns"] / 1e9
        for one in json.loads(said)["runs"]
        for phase in one["phases"]
        if phase["phase"] == "dirty 2"
    ]
    (tmp_path / "run.json").write_text(said)
    options = ["-v", "1,8", "-b", "2MiB", "--policy", "serial", "--draws", "2", "--json"]
    assert run(["predict", *options, "--from", str(tmp_path / "run.json")]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["machine"]["waits"] == "sleep"
    one, eight = (row["seconds"] for row in result["predictions"] if row["pass"] == "dirty")
    assert one == pytest.approx(median(measured), rel=0.1)
    assert eight == pytest.approx(8 * one, rel=0.1)


def test_the_command_prints_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", "-v", "1,1024", "-b", "1TiB", "--policy", "parallel", "--draws", "2"]) == 0
    out = capsys.readouterr().out
    assert "cover letter" in out
    assert "80 cores, 1TiB per vCPU" in out
    assert [line.split()[0] for line in out.splitlines() if "1,024" in line] == ["1,024", "1,024"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["-v", "0"], "whole number"),
        (["--policy", "hope"], "hope"),
        (["--backing", "hope"], "hope"),
        (["--splits", "hope"], "hope"),
        (["--memory", "3KiB"], "multiple of"),
        (["--from", "/nowhere/run.json"], "run.json"),
        (["--from", __file__], "--json"),
        (["--from", "here", "--from", "cover-letter"], "alone"),
        (["--draws", "1"], "draws"),
    ],
)
def test_mistakes_end_with_one_line(options: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["predict", *options]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert says in err


def test_without_the_simulation_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.startswith("s2pt.lab")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "simpy", None)
    assert run(["predict"]) == 2
    assert capsys.readouterr().err == "s2pt: error: predict needs simpy; install it with: pip install 's2pt[lab]'\n"


def test_the_letters_machine_is_the_calibrations() -> None:
    assert cover_letter().machine == MACHINE
