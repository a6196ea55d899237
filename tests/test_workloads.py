"""KVM's other tests as experiments, and dirty logging in every mode: Python's face and the command."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from typing import Any

import pytest

import s2pt
from s2pt import Costs, DirtyLog, Migrate, OptionError, Policy, Vm, _core
from s2pt.cli.app import run
from s2pt.workloads import AccessTracking, DemandPaging, Memslots, PageTable

POLICIES = [policy.value for policy in Policy]
BLOCK = 2 << 20
PAGES = BLOCK // 4096
each_policy = pytest.mark.parametrize("policy", POLICIES)
each_vcpus = pytest.mark.parametrize("vcpus", [1, 3])


def only(**counts: int) -> dict[str, int]:
    return {"translation": 0, "permission": 0, "access_flag": 0} | counts


# --- dirty logging in every mode -----------------------------------------------------------------------------------


@each_vcpus
@pytest.mark.parametrize("semantics", ["exact", "kvm"])
@pytest.mark.parametrize("log", ["lazy", "eager", "hardware", "ring"])
@pytest.mark.parametrize("manual", [False, True])
def test_a_dirty_log_takes_the_faults_of_its_formula(log: Any, semantics: Any, manual: bool, vcpus: int) -> None:
    """Those of docs/dirty-log.md; tests/vm/dirty_log.rs has all combinations."""
    if (log, semantics) == ("hardware", "kvm"):
        pytest.skip("hardware's notes need exact semantics")
    blocks = 2 * vcpus
    vm = Vm(f"{2 * blocks}MiB", semantics=semantics, hd=log == "hardware", dirty_ring=64 if log == "ring" else 0)
    report = vm.run(DirtyLog(vcpus=vcpus, iterations=3, log=log, manual_protect=manual))
    by_name = {phase.phase: phase for phase in report.phases}
    all_pages = only(permission=blocks * PAGES)
    first, later = all_pages, all_pages
    if log == "hardware":
        first, later = only(), only()
    elif semantics == "kvm" and log != "eager":
        first = only(permission=blocks, translation=blocks * (PAGES - 1))
    passes = [only(), first, later] if manual and log != "ring" else [first, later, later]
    for n, expected in enumerate(passes, start=1):
        phase = by_name[f"dirty {n}"]
        assert (phase.handled, phase.expected, phase.as_expected) == (expected, expected, True)
        assert by_name[f"get {n}"].found == blocks * PAGES
    assert by_name["populate"].handled == only(translation=blocks)
    assert ("clear 1" in by_name) == (manual and log != "ring")


def test_a_log_that_the_vm_cannot_have_is_refused() -> None:
    with pytest.raises(OptionError, match=r"a log 'ring' needs a VM with dirty rings \(dirty_ring\)"):
        Vm("4MiB").run(DirtyLog(log="ring"))
    with pytest.raises(OptionError, match="and such a VM has no other one"):
        Vm("4MiB", dirty_ring=64).run(DirtyLog())
    with pytest.raises(s2pt.S2ptError, match="hardware tracking needs a table whose hardware notes writes"):
        Vm("4MiB").run(DirtyLog(log="hardware"))
    with pytest.raises(s2pt.S2ptError, match="multiple of the smallest block"):
        Vm("4MiB").run(DirtyLog(log="eager", eager_chunk=4096))
    with pytest.raises(ValueError, match="log must be one of 'lazy', 'eager', 'hardware', 'ring', not 'lost'"):
        Vm("4MiB").run(DirtyLog(log="lost"))  # type: ignore[arg-type]


def test_several_slots_are_one_memory() -> None:
    vm = Vm("4MiB")
    vm.add_slot(1, 0x4040_0000, "2MiB", 0x4040_0000)
    report = vm.run(DirtyLog(slots=2, vcpus=2, overlap=True))
    assert report.accesses == 2 * 3 * PAGES
    assert [phase.found for phase in report.phases if phase.phase.startswith("get")] == [3 * PAGES] * 2
    vm.add_slot(2, 0x5000_0000, "2MiB", 0x5000_0000)
    with pytest.raises(OptionError, match="slot 2 does not begin where slot 1 ends"):
        vm.run(DirtyLog(slots=3))


# --- access tracking -----------------------------------------------------------------------------------------------


@each_policy
@each_vcpus
@pytest.mark.parametrize("hardware_af", [False, True])
def test_idle_leaves_fault_unless_hardware_sees_to_it(policy: Any, vcpus: int, hardware_af: bool) -> None:
    options = AccessTracking(vcpus=vcpus, bytes_per_vcpu="4MiB", policy=policy, hardware_af=hardware_af)
    report = options.run()
    leaves = 2 * vcpus
    idle = only(access_flag=0 if hardware_af else leaves)
    handled = [phase.handled for phase in report.phases]
    assert handled == [only(translation=leaves), only(), only(), only(), idle, only(), idle]
    assert [phase.found for phase in report.phases if phase.found is not None] == [leaves, leaves]
    assert report.as_expected
    assert report.complete
    assert len(str(report).splitlines()) == 9
    assert pickle.loads(pickle.dumps((options, report))) == (options, report)


def test_hardware_that_sets_the_access_flag_is_seen_by_ageing() -> None:
    vm = Vm("4MiB")
    vm.access(0x4000_0000)
    assert vm.age(0x4000_0000, "4MiB")
    assert not vm.age(0x4000_0000, "4MiB")
    vm.access(0x4000_0000)
    assert vm.age(0x4000_0000, "4MiB")


# --- page table ----------------------------------------------------------------------------------------------------


@each_policy
@each_vcpus
@pytest.mark.parametrize("semantics", ["exact", "kvm"])
@pytest.mark.parametrize("backing", ["pages", "thp"])
def test_blocks_are_made_again(policy: Any, vcpus: int, semantics: Any, backing: Any) -> None:
    options = PageTable(vcpus=vcpus, bytes_per_vcpu="6MiB", policy=policy, semantics=semantics, backing=backing)
    report = options.run()
    assert (report.blocks, report.pages) == ((3, 0) if backing == "thp" else (3 * PAGES, 0))
    assert report.as_expected
    assert [phase.phase for phase in report.phases] == ["create", "log", "update", "end log", "adjust"]
    if vcpus == 1 and (semantics, backing) == ("kvm", "thp"):
        update = only(translation=3 * PAGES // 2, permission=3)
        assert [phase.handled for phase in report.phases][2:] == [update, only(), only(translation=3)]
    assert str(report).endswith("whole pages of the host mapped at the end, 0 parts")


# --- demand paging -------------------------------------------------------------------------------------------------


@each_policy
@each_vcpus
@pytest.mark.parametrize("supply", ["kernel", "missing", "minor"])
def test_pages_come_from_their_supplier(policy: Any, vcpus: int, supply: Any) -> None:
    options = DemandPaging(
        vcpus=vcpus, bytes_per_vcpu="1MiB", policy=policy, supply=supply, backing="pages",
        readers=1 if supply == "kernel" else 2, one_queue=supply != "kernel" and policy == "serial",
    )  # fmt: skip
    report = options.run()
    pages = 256 * vcpus
    assert (report.supplied, report.wrong_pages) == (0 if supply == "kernel" else pages, 0)
    assert report.phases[-1].handled == only(translation=pages)
    assert report.as_expected
    assert report.pages == 256
    assert report.written == vcpus * 256
    assert report.rate == pytest.approx(vcpus * 256 / report.seconds)
    assert report.rate_per_vcpu == pytest.approx(256 / report.seconds)
    assert "wrong pages 0" in str(report)


# --- memory slots --------------------------------------------------------------------------------------------------


@each_policy
@each_vcpus
@pytest.mark.parametrize("test", ["map", "unmap", "unmap-chunked", "move-active", "move-inactive", "rw"])
def test_slots_and_memory_come_and_go(policy: Any, vcpus: int, test: Any) -> None:
    options = Memslots(
        vcpus=vcpus, bytes_per_vcpu="2MiB", slots=4, policy=policy, test=test, iterations=3, backing="pages"
    )
    report = options.run()
    assert (report.iterations, report.wrong_words, report.complete) == (3, 0, True)
    assert [phase.phase for phase in report.phases] == ["setup", "turns", "remove"]
    turns = {"map": 3 * vcpus * PAGES, "unmap": 6 * vcpus, "unmap-chunked": 6 * vcpus, "rw": vcpus * PAGES}
    if test in turns:
        assert report.phases[1].handled == only(translation=turns[test])
    assert report.as_expected
    assert report.ns_per_iteration * 3 == pytest.approx(report.phases[1].elapsed_ns)
    assert "3 iterations" in str(report)


def test_memory_slots_are_limited_by_time_or_by_number() -> None:
    report = Memslots(bytes_per_vcpu="2MiB", backing="pages", time_s=0.05).run()
    assert report.iterations > 0
    assert report.phases[1].elapsed_ns >= 50_000_000
    assert Memslots(bytes_per_vcpu="2MiB", backing="pages", time_s=1e-9).run().iterations == 1
    for wrong, message in [(0, "nanoseconds of a test is 0 "), (-1, r"time_s must be in 0\.\.9e\+09, not -1")]:
        with pytest.raises(OptionError, match=message):
            Memslots(time_s=wrong).job()
    with pytest.raises(OptionError, match=r"iterations is 0 \(0x0\); it must be 1 or more"):
        Memslots(iterations=0).job()
    with pytest.raises(TypeError, match="time_s must be a number, not str"):
        Memslots(time_s="5s").job()  # type: ignore[arg-type]
    with pytest.raises(OptionError, match=r"slots is 1 \(0x1\); it must be 2 to 512"):
        Memslots(bytes_per_vcpu="2MiB", slots=1, test="move-active").job()
    with pytest.raises(OptionError, match="bytes per vCPU is 0x1000; it must be 0x2000 to"):
        Memslots(bytes_per_vcpu="4KiB", slots=1).job()


# --- all of them ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [AccessTracking, PageTable, DemandPaging, Memslots])
def test_wrong_options_are_refused_before_anything_runs(kind: Any) -> None:
    with pytest.raises(OptionError, match=r"vcpus is 0 \(0x0\); it must be 1 to 4096"):
        kind(vcpus=0).job()
    with pytest.raises(OptionError, match=r"slots is 4294967295 \(0xffffffff\); it must be 1 to 4096"):
        kind(slots=2**40).job()
    with pytest.raises(s2pt.AlignmentError, match="bytes per vCPU 0x5001 is not a multiple of 0x1000"):
        kind(bytes_per_vcpu=0x5001, backing="pages").job()
    with pytest.raises(ValueError, match="policy must be one of"):
        kind(policy="hope").job()
    with pytest.raises(OptionError, match="exit 0x77359400 is beyond 0x3b9aca00, one second"):
        kind(costs=Costs(exit="2s")).job()


@pytest.mark.parametrize("kind", [AccessTracking, PageTable, DemandPaging])
def test_a_run_that_is_ended_early_tells_what_it_found(kind: Any) -> None:
    options = kind(bytes_per_vcpu="64MiB", backing="pages", costs=Costs(exit="100us"))
    report = options.run(progress=lambda done, total: not 0 < done < total, poll_s=0.001)
    assert not report.complete
    assert [phase.complete for phase in report.phases] == [True] * (len(report.phases) - 1) + [False]
    assert report.phases[-1].expected is None
    assert str(report).count("ended early") == 1


@pytest.mark.parametrize(
    ("kind", "first"),
    [(AccessTracking, "populate"), (PageTable, "create"), (DemandPaging, "guest"), (Memslots, "setup")],
)
def test_a_run_that_is_ended_at_once_tells_in_which_step(kind: Any, first: str) -> None:
    job = kind(bytes_per_vcpu="16MiB", backing="pages").job()
    assert isinstance(job, _core.Job)
    job.cancel()
    job.start()
    assert job.wait(60)
    found = job.result()
    assert found["complete"] is False
    ((name, complete, elapsed, faults),) = [
        (phase["phase"], phase["complete"], phase["elapsed_ns"], sum(phase["faults"].values()))
        for phase in found["phases"]
    ]
    assert (name, complete, elapsed, faults) == (first, False, 0, 0)


def test_pages_that_came_before_the_end_have_a_rate() -> None:
    options = DemandPaging(bytes_per_vcpu="16MiB", backing="pages", supply="missing", delay="100us")
    report = options.run(progress=lambda done, total: done < 256, poll_s=0.001)
    assert not report.complete
    assert 256 <= report.written < 4096
    assert report.rate == report.rate_per_vcpu == pytest.approx(report.written / report.seconds)
    assert "pages a second and vCPU" in str(report)
    nothing = options.run(progress=lambda done, total: False, poll_s=0)
    assert nothing.rate == nothing.written / nothing.seconds if nothing.written else nothing.rate == 0.0


def test_page_tables_need_whole_pages_of_the_host() -> None:
    with pytest.raises(s2pt.AlignmentError, match="0x300000 is not a multiple of 0x200000"):
        PageTable(bytes_per_vcpu="3MiB").job()
    with pytest.raises(s2pt.AlignmentError, match="cannot be mapped in whole pages of 0x200000 bytes"):
        PageTable(bytes_per_vcpu="4MiB", slots=3).job()
    with pytest.raises(OptionError, match=r"readers is 65 \(0x41\); it must be 1 to 64"):
        DemandPaging(supply="minor", readers=65).job()


# --- the command ---------------------------------------------------------------------------------------------------


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    def call(*arguments: object) -> str:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return call


def test_access_tracking_prints_the_phases_of_the_test(command: Callable[..., str]) -> None:
    out = command("access-tracking", "-v", "1,2", "-b", "4MiB", "-s", "anonymous_thp")
    lines = [line for line in out.splitlines() if line.startswith("Writing to idle memory        : ")]
    assert len(lines) == 6
    assert lines[0].endswith("s (2 access-flag faults)")
    assert out.count("Mark memory idle              : ") == 12
    assert out.count("Leaves that were young when asked: 4, then 4") == 3
    table = out[out.index("Seconds by vCPU count and policy") :]
    assert next(line for line in table.splitlines() if "phase" in line).split() == ["phase", "vCPUs", *POLICIES]
    assert "the formula says" not in out


def test_page_table_prints_the_stages_of_the_test(command: Callable[..., str]) -> None:
    out = command("page-table", "-b", "4MiB", "-s", "thp", "--policy", "parallel", "--semantics", "kvm")
    for stage, faults in [
        ("CREATE", "2 translation faults)"),
        ("UPDATE", "512 translation, 2 permission faults; 2 TLBIs)"),
        ("ADJUST", "2 translation faults; 2 TLBIs)"),
    ]:
        (line,) = [line for line in out.splitlines() if line.startswith(f"KVM_{stage}_MAPPINGS           : 0.")]
        assert line.endswith(faults)
    assert "Mapped at the end: 2 whole pages of the host, 0 parts" in out


def test_demand_paging_prints_the_rates_of_the_test(command: Callable[..., str]) -> None:
    out = command("demand-paging", "-v", 2, "-b", "1MiB", "-u", "MINOR", "-r", 2, "-d", "1us", "--policy", "lockless")
    for title in ("Total guest execution time    : ", "Per-vcpu demand paging rate: ", "Overall demand paging rate:  "):
        assert out.count(title) == 1
    assert "Pages of the host supplied: 512, there already: 0, wrong pages: 0" in out


def test_memslot_prints_what_the_test_does(command: Callable[..., str]) -> None:
    out = command("memslot", "-b", "2MiB", "-x", 4, "-t", "map,move-active", "-n", 3, "--policy", "lockless")
    assert out.count("Done 3 iterations, avg 0.") == 2
    assert out.count("s for slot setup + 0.") == 2
    assert "Testing map performance" in out
    assert "wrong words: 0" in out
    table = out[out.index("Seconds an iteration by test") :]
    assert "move-active" in table
    value = json.loads(command("memslot", "-b", "2MiB", "-x", 4, "-n", 1, "--policy", "serial", "--json"))
    assert [run_["options"]["test"] for run_ in value["runs"]] == [
        "map", "unmap", "unmap-chunked", "move-active", "move-inactive", "rw",
    ]  # fmt: skip


@pytest.mark.parametrize("name", ["access-tracking", "page-table", "demand-paging"])
def test_json_is_one_document(command: Callable[..., str], name: str) -> None:
    value = json.loads(
        command(name, "-b", "2MiB", "-x", 1, "--policy", "serial", "--exit-cost", "1us", "--spin", "--json")
    )
    assert (value["command"], value["complete"]) == (name, True)
    (run_,) = value["runs"]
    assert (run_["options"]["policy"], run_["options"]["costs"]["exit"], run_["vcpus"]) == (
        "serial", {"ns": 1000, "how": "spin"}, 1,
    )  # fmt: skip
    assert all(phase["expected"] in (None, phase["handled"]) for phase in run_["phases"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["access-tracking", "-v", "0"], "'0' is not a whole number from 1 on"),
        (["access-tracking", "-s", "tape"], "backing 'tape' is none of pages, anonymous,"),
        (["access-tracking", "--semantics", "hope"], "semantics must be one of 'exact', 'kvm', not 'hope'"),
        (["page-table", "-b", "3MiB", "-s", "thp"], "0x300000 is not a multiple of 0x200000"),
        (["page-table", "--exit-cost", "2s"], "exit 0x77359400 is beyond"),
        (["demand-paging", "-u", "DISK"], "'DISK' is not one of kernel, missing, minor"),
        (["demand-paging", "-r", "0"], "'-r'"),
        (["memslot", "-t", "hop"], "'hop' is not one of map, unmap, unmap-chunked, move-active, move-inactive, rw"),
        (["memslot", "-x", "1", "-t", "move-active", "-b", "2MiB"], "-x/--slots is 1 (0x1); it must be 2 to 512"),
        (["memslot", "-l", "0s"], "nanoseconds of a test is 0 (0x0); it must be 1 or more"),
        (["dirty-log", "-b", "0"], "bytes per vCPU is 0x0; it must be 0x1000 or more"),
        (["memslot", "-l", "5"], "'5' is not a time such as"),
        (["dirty-log", "--log", "lost"], "'lost' is not one of lazy, eager, hardware, ring"),
        (["dirty-log", "--log", "hardware", "--semantics", "kvm"], "a table with exact semantics"),
        (["dirty-log", "--log", "eager", "--eager-chunk", "4KiB"], "multiple of the smallest block"),
        (["dirty-log", "-x", "0"], "'-x'"),
    ],
)
def test_mistakes_are_one_line(capsys: pytest.CaptureFixture[str], arguments: list[str], message: str) -> None:
    assert run(arguments) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err


@pytest.mark.parametrize("log", ["lazy", "eager", "hardware", "ring"])
def test_dirty_log_in_every_way(command: Callable[..., str], log: str) -> None:
    options = ["-v", 2, "-b", "4MiB", "-s", "thp", "-x", 3, "--log", log, "--policy", "parallel"]
    options += ["--ring-entries", 64] if log == "ring" else []
    value = json.loads(command("dirty-log", *options, "--json"))
    dirty = [phase for phase in value["runs"][0]["phases"] if phase["phase"].startswith("dirty")]
    assert all(phase["handled"] == phase["expected"] for phase in dirty)
    out = command("dirty-log", *options, "--semantics", "exact")
    assert ("Log: " in out) == (log != "lazy")
    assert ("in vain" in out) == (log == "ring")
    assert "the formula says" not in out


class Two:
    def __index__(self) -> int:
        return 2


def test_wrong_types_are_told_with_the_argument() -> None:
    vm: Any = Vm("4MiB")
    for wrong, name in [
        (AccessTracking(vcpus=1.5).job, "vcpus"),  # type: ignore[arg-type]
        (PageTable(slots="1").job, "slots"),  # type: ignore[arg-type]
        (DemandPaging(supply="minor", readers=1.5).job, "readers"),  # type: ignore[arg-type]
        (Memslots(time_s=5, iterations=1.5).job, "iterations"),  # type: ignore[arg-type]
        (Migrate(rounds=1.5).job, "rounds"),  # type: ignore[arg-type]
        (lambda: vm.run(DirtyLog(seed=1.5)), "seed"),  # type: ignore[arg-type]
        (lambda: vm.run(DirtyLog(vcpus=1.5)), "vcpus"),  # type: ignore[arg-type]
    ]:
        with pytest.raises(TypeError, match=f"^{name} must be an integer, not (float|str)"):
            wrong()


def test_whatever_is_an_integer_is_a_count() -> None:
    vm: Any = Vm("4MiB")
    assert vm.run(DirtyLog(vcpus=Two(), iterations=Two())).vcpus == 2  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="iterations is 0 "):
        vm.run(DirtyLog(iterations=0))
