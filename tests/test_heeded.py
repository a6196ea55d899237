"""An option that does nothing beside the others is refused, whichever run or command it is given to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from s2pt import DirtyLog, Migrate, OptionError, Vm
from s2pt.cli.app import run
from s2pt.workloads import DemandPaging, Memslots

DATA = Path(__file__).resolve().parent / "data"
TRACE = DATA / "kvm-traces" / "thpon_2vcpu.txt.xz"
DUMP = next((DATA / "kvm-tables").rglob("*.bin.xz"), TRACE)

RUNS: dict[str, tuple[Any, str]] = {
    "chunk": (
        lambda: Vm("4MiB").run(DirtyLog(eager_chunk="4MiB")),
        "eager_chunk does nothing here: a log 'lazy' splits",
    ),
    "suppliers": (DemandPaging(readers=2).job, "readers does nothing here: the kernel has all pages"),
    "queue": (DemandPaging(one_queue=True).job, "one_queue does nothing here"),
    "delay": (DemandPaging(delay="1us").job, "delay does nothing here"),
    "time": (Memslots(time_s=1, iterations=3).job, "time_s does nothing here: iterations says how often"),
    "ring": (Migrate(ring_entries=64).job, "ring_entries does nothing here: a log 'lazy' has no rings"),
    "migration's chunk": (Migrate(log="ring", eager_chunk="4MiB").job, "eager_chunk does nothing here: a log 'ring'"),
    "by hand": (
        Migrate(log="ring", manual_protect=True).job,
        "manual_protect does nothing here: rings are not cleared",
    ),
    "thought": (Migrate(think_how="spin").job, "think_how does nothing here: the guest does not think"),
}
HEEDED = {
    "defaults": DemandPaging(bytes_per_vcpu="1MiB", readers=1, one_queue=False, delay="0ns").job,
    "a supplier's": DemandPaging(bytes_per_vcpu="1MiB", supply="minor", readers=2, one_queue=True, delay="1us").job,
    "a ring": Migrate(memory="2MiB", log="ring", ring_entries=64).job,
    "chunks": Migrate(memory="2MiB", log="eager", eager_chunk="4MiB", manual_protect=True).job,
    "what would be so anyway": lambda: Vm("4MiB", dirty_ring=64).run(DirtyLog(log="ring", manual_protect=False)),
}
COMMANDS = {
    "dirty-log --log lazy --ring-entries 64": "--ring-entries does nothing here: a log 'lazy' has no rings",
    "dirty-log --log ring --eager-chunk 4MiB": "--eager-chunk does nothing here: a log 'ring' splits nothing ahead",
    "dirty-log --log ring -g": "-g/--no-manual-protect does nothing here: rings are not cleared by hand",
    "dirty-log -o": "-o/--overlap does nothing here: no run has more than one vCPU",
    "access-tracking -v 1 -o": "-o/--overlap does nothing here: no run has more than one vCPU",
    "demand-paging -v 1 -o": "-o/--overlap does nothing here",
    "dirty-log --spin": "--spin does nothing here: no cost leaves it open",
    "dirty-log --spin --exit-cost 1us:sleep": "--spin does nothing here",
    "access-tracking --spin --stall-tlbi 0ns": "--spin does nothing here",
    "demand-paging -u kernel -r 2": "-r/--readers does nothing here",
    "demand-paging -a": "-a/--all does nothing here",
    "demand-paging -d 1us": "-d/--delay does nothing here",
    "memslot -n 3 -l 1s": "-l/--time does nothing here",
    "migrate --log ring -m": "-m/--manual-protect does nothing here",
    "migrate --spin": "--spin does nothing here",
    "replay TRACE --json --differences 3": "--differences does nothing here: --json prints all of them",
    "inspect DUMP --style kvm6": "--style does nothing here: it is of --dump",
    "inspect DUMP --json --limit 3": "--limit does nothing here",
    "diff DUMP DUMP --json --limit 3": "--limit does nothing here",
    "check DUMP --leave-out-local": "--leave-out-local does nothing here: it is of --casemate",
    "decode vtcr 0x1 --level 2": "--level does nothing here: it is about entry",
    "decode esr 0x1 --vtcr 0x1": "--vtcr does nothing here: it is about vttbr",
    "decode entry 0x1 --far 0x1": "--far does nothing here: it is about esr",
    "predict -s pages --splits lazy": "--splits does nothing here",
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_refuses_what_does_nothing(name: str) -> None:
    make, message = RUNS[name]
    with pytest.raises(OptionError) as refused:
        make()
    assert str(refused.value).startswith(message)


@pytest.mark.parametrize("name", HEEDED)
def test_what_is_heeded_or_at_its_default_is_taken(name: str) -> None:
    HEEDED[name]()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_refuses_what_does_nothing(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("simpy")
    files = {"TRACE": str(TRACE), "DUMP": str(DUMP)}
    assert run([files.get(word, word) for word in line.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"s2pt: error: {COMMANDS[line]}")


def test_one_of_several_runs_that_heeds_it_is_enough(capsys: pytest.CaptureFixture[str]) -> None:
    logs = ["--log", "lazy,ring", "-m", "--spin", "--think", "1us", "--policy", "lockless"]
    assert run(["migrate", "-b", "2MiB", "--warm-up", "1ms", *logs]) == 0
    assert run(["demand-paging", "-b", "1MiB", "-u", "minor", "-d", "1us", "--spin", "--policy", "lockless"]) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    "line",
    [
        "dirty-log -b 2MiB -v 1,5000",
        "migrate -b 2MiB --warm-up 1ms --semantics kvm --log lazy,hardware",
        "access-tracking -b 2MiB -v 1,5000",
    ],
)
def test_what_is_wrong_with_any_run_is_said_before_the_first(line: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(line.split()) == 2
    assert capsys.readouterr().out == ""
