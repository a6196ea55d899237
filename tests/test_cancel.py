"""Runs that are ended early, from Python and by Ctrl-C in the command, give what there was up to there."""

from __future__ import annotations

import json
import pickle
import re
import subprocess
import sys
from pathlib import Path

import pytest

import s2pt
from s2pt import DirtyLog, Migrate, Vm
from s2pt.trace import Replay, read

TRACE = Path(__file__).resolve().parent / "data" / "kvm-traces" / "thpon_2vcpu.txt.xz"
ENDLESS = DirtyLog(vcpus=2, iterations=1_000_000)
ACCESSES = 2048  # of one pass over 8 MiB
SLOW = {"memory": "2MiB", "warm_up_s": 0.001, "bandwidth": "64KiB"}  # two minutes for the first round alone


def until(steps: int):
    """Give a progress callback that ends the run when so many steps are done."""
    return lambda done, total: done < steps


def interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt


def check_passes(report: s2pt.DirtyLogReport) -> None:
    """Three passes were done, and perhaps more."""
    assert not report.complete
    names = [phase.phase for phase in report.phases]
    assert names[:7] == ["populate", "enable", "dirty 1", "get 1", "clear 1", "dirty 2", "get 2"][: len(names)]
    assert len(names) >= 6
    assert "disable" not in names
    assert all(phase.complete for phase in report.phases[:-1])
    assert sum(report.phases[0].faults.values()) == 4  # blocks
    assert report.phases[3].found == ACCESSES
    assert "ended early" in str(report)


def test_a_callback_ends_a_run() -> None:
    vm = Vm(memory="8MiB")
    check_passes(vm.run(ENDLESS, progress=until(3 * ACCESSES), poll_s=0.001))
    again = vm.run(DirtyLog(iterations=1))  # refused if the log were on
    assert again.complete
    assert again.phases[-1].phase == "disable"
    assert "ended early" not in str(again)


@pytest.mark.parametrize("answer", [None, True, 0, "no"])
def test_only_false_ends_a_run(answer: object) -> None:
    seen = []

    def progress(done: int, total: int) -> object:
        seen.append((done, total))
        return answer

    report = Vm(memory="8MiB", stall_tlbi_ns=100_000).run(DirtyLog(), progress=progress, poll_s=0.001)
    assert report.complete
    assert seen


class OwnError(Exception):
    pass


class StubbornError(Exception):
    """Has no place for a report."""

    report = property(lambda self: "its own")


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit, OwnError])
def test_an_exception_carries_what_there_was(kind: type[BaseException]) -> None:
    def progress(done: int, total: int) -> None:
        if done >= 3 * ACCESSES:
            raise kind("enough")

    with pytest.raises(kind, match="enough") as raised:
        Vm(memory="8MiB").run(ENDLESS, progress=progress, poll_s=0.001)
    check_passes(raised.value.report)  # type: ignore[attr-defined]


def test_an_exception_that_carries_nothing_is_still_raised() -> None:
    def progress(done: int, total: int) -> None:
        raise StubbornError

    with pytest.raises(StubbornError) as raised:
        Vm(memory="8MiB").run(ENDLESS, progress=progress, poll_s=0.001)
    assert raised.value.report == "its own"


@pytest.mark.parametrize("poll_s", [-1, -1e-9, float("nan"), float("-inf")])
def test_what_is_no_time_to_wait_is_refused(poll_s: float) -> None:
    vm = Vm(memory="8MiB")
    with pytest.raises(s2pt.OptionError, match=r"poll_s must be in 0\.\.inf, not "):
        vm.run(DirtyLog(), poll_s=poll_s)
    with pytest.raises(s2pt.OptionError, match="poll_s"):
        Migrate(**SLOW).run(poll_s=poll_s)
    with pytest.raises(TypeError, match="poll_s must be a number, not str"):
        vm.run(DirtyLog(), poll_s="1")  # type: ignore[arg-type]


@pytest.mark.parametrize("field", ["vcpus", "slots", "slot", "iterations", "write_percent", "seed"])
@pytest.mark.parametrize(("value", "error"), [("2", TypeError), (-1, (s2pt.OptionError, s2pt.AddressError))])
def test_a_number_that_is_none_is_named(field: str, value: object, error: type[Exception]) -> None:
    with pytest.raises(error) as refused:
        Vm(memory="8MiB").run(DirtyLog(**{field: value}))
    said = [str(refused.value), *getattr(refused.value, "__notes__", [])]
    assert any(field in text for text in said)


def test_a_refused_run_has_no_report() -> None:
    with pytest.raises(s2pt.OptionError) as raised:
        Vm(memory="8MiB").run(DirtyLog(vcpus=0))
    assert not hasattr(raised.value, "report")


def test_a_migration_tells_what_it_sent() -> None:
    report = Migrate(**SLOW).run(progress=until(64), poll_s=0.001)
    assert (report.complete, report.lost_bytes, report.rounds) == (False, None, ())
    assert 64 <= report.pages_sent < 512
    assert report.before.accesses > 0
    assert (report.wrong_reads, report.violations, report.downtime_ns) == (0, 0, 0)
    assert "lost bytes not known" in str(report)
    assert report.cut == "round 1"
    assert "ended early, in round 1" in str(report)
    assert Migrate(memory="2MiB", warm_up_s=0.001).run().cut is None
    with pytest.raises(KeyboardInterrupt) as raised:
        Migrate(**SLOW).run(progress=interrupt, poll_s=0.001)
    assert raised.value.report.complete is False  # type: ignore[attr-defined]


def test_a_replay_tells_its_rows() -> None:
    trace = read(TRACE)
    whole = Replay(trace).run()
    assert (whole.complete, whole.faults, whole.unexplained) == (True, len(trace.faults), 0)
    assert [dump.name for dump in whole.dumps] == ["end"]
    # Each take-back of the host waits: there is time enough for a look.
    slow = pickle.loads(pickle.dumps(Replay(trace, tlbi="100ms")))  # as a sweep on other machines does
    report = slow.run(progress=lambda done, total: False, poll_s=0.001)
    assert not report.complete
    assert report.faults < whole.faults
    assert report.dumps == ()
    assert "ended early" in str(report)
    with pytest.raises(KeyboardInterrupt) as raised:
        slow.run(progress=interrupt, poll_s=0.001)
    assert raised.value.report.complete is False  # type: ignore[attr-defined]


def test_a_replay_that_makes_no_sense_is_refused() -> None:
    trace = read(TRACE)
    with pytest.raises(s2pt.OptionError, match="take sizes trace with threads"):
        Replay(trace, order="threads", semantics="kvm", sizes="recorded").run()
    with pytest.raises(ValueError, match="order must be one of"):
        Replay(trace, order="any").run()  # type: ignore[arg-type]


def test_progress_names_the_step() -> None:
    job = Migrate(**SLOW).job()
    assert job.progress() == (0, 0, "")
    job.start()
    while job.progress()[2] != "round 1":
        assert not job.wait(0.001)
    job.cancel()
    assert job.wait(60)
    assert job.result()["complete"] is False


def test_a_bar_says_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Vm(memory="8MiB").run(DirtyLog(), progress=True).complete
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    with pytest.raises(s2pt.OptionError, match="progress bar needs rich"):
        Vm(memory="8MiB").run(DirtyLog(), progress=True)


# --- the command ------------------------------------------------------------------------------------------------------

# The command with a job that sends SIGINT to its own process as soon as `steps` are done; 0: it was told to end before
# it began, so that it has done nothing.
COMMAND = """
import importlib, os, signal, sys

signal.signal(signal.SIGINT, signal.default_int_handler)
module, name, steps = importlib.import_module(sys.argv[1]), sys.argv[2], int(sys.argv[3])

class Watched:
    def __init__(self, *arguments, **options):
        self.job, self.sent = inner(*arguments, **options), False
        self.progress, self.cancel, self.result = self.job.progress, self.job.cancel, self.job.result

    def start(self):
        if steps == 0:
            self.job.cancel()
        self.job.start()

    def wait(self, timeout_s):
        if not self.sent and self.job.progress()[0] >= steps:
            self.sent = True
            os.kill(os.getpid(), signal.SIGINT)
        return self.job.wait(min(timeout_s, 0.001))

inner = getattr(module, name)
setattr(module, name, Watched)
from s2pt.cli.app import run
sys.exit(run(sys.argv[4:]))
"""


def interrupted(module: str, job: str, steps: int, *command: str) -> str:
    """Run the command until the signal; give what it printed."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, module, job, str(steps), *command], capture_output=True, text=True, timeout=300
    )
    assert (done.returncode, done.stderr) == (130, "s2pt: error: interrupted\n"), done.stdout
    return done.stdout


ENDLESS_LOG = ["dirty-log", "-v", "2", "-b", "4MiB", "-i", "1000000", "--policy", "lockless,serial"]
SLOW_MIGRATION = ["migrate", "-b", "2MiB", "--warm-up", "1ms", "--bandwidth", "64KiB", "--policy", "serial,lockless"]


def test_dirty_log_prints_what_it_did() -> None:
    shown = interrupted("s2pt.cli.dirty_log", "DirtyLogJob", 3 * ACCESSES, *ENDLESS_LOG)
    assert "vCPUs 2, policy lockless: interrupted\nPopulate memory time: " in shown
    assert "Iteration 1 get dirty log time: " in shown
    assert "policy serial" not in shown
    assert "Disabling dirty logging time" not in shown
    assert "Seconds by vCPU count and policy" in shown


def test_dirty_log_keeps_json_and_page(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    page = tmp_path / "run.html"
    shown = interrupted("s2pt.cli.dirty_log", "DirtyLogJob", 3 * ACCESSES, *ENDLESS_LOG, "--json", "--html", str(page))
    found = json.loads(shown)
    (run,) = found["runs"]
    assert (found["complete"], run["complete"], run["policy"]) == (False, False, "lockless")
    assert [phase["phase"] for phase in run["phases"]][:4] == ["populate", "enable", "dirty 1", "get 1"]
    assert "The last run was ended early" in page.read_text()


def test_migrate_prints_what_it_did() -> None:
    shown = interrupted("s2pt.migrate", "MigrateJob", 64, *SLOW_MIGRATION)
    assert "lazy log, serial: interrupted in round 1; " in shown
    assert "0 rounds done, nothing compared" in shown
    assert "1 run: nothing compared, 0 wrong reads" in shown
    found = json.loads(interrupted("s2pt.migrate", "MigrateJob", 64, *SLOW_MIGRATION, "--json"))
    assert found["complete"] is False
    assert [(run["complete"], run["lost_bytes"]) for run in found["runs"]] == [(False, None)]


def test_replay_prints_what_it_did() -> None:
    shown = interrupted("s2pt.trace.replay", "ReplayJob", 0, "replay", str(TRACE))
    assert "semantics exact: interrupted\n  0 faults in " in shown
    found = json.loads(interrupted("s2pt.trace.replay", "ReplayJob", 0, "replay", str(TRACE), "--json"))
    assert (found["complete"], found["runs"][0]["faults"], found["runs"][0]["complete"]) == (False, 0, False)


def test_demand_paging_prints_the_rate_until_then() -> None:
    slow = ["demand-paging", "-b", "16MiB", "--policy", "serial,lockless", "-u", "missing", "-d", "100us"]
    shown = interrupted("s2pt.workloads.demand_paging", "DemandPagingJob", 256, *slow)
    assert "policy serial: interrupted" in shown
    (rate,) = re.findall(r"Overall demand paging rate:  ([\d.]+) pgs/sec\n", shown)
    assert 0 < float(rate) < 20_000
    assert "Total guest execution time    : 0." in shown
    none = interrupted("s2pt.workloads.demand_paging", "DemandPagingJob", 0, *slow)
    assert "paging rate" not in none
    assert "Total guest execution time    : 0.000000000s (cut short)" in none
    assert "Seconds by vCPU count and policy" not in none


def test_a_picture_of_nothing_is_said_not_to_be_written(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    picture, page = tmp_path / "a.svg", tmp_path / "a.html"
    job, drawn = ["s2pt.workloads.access_tracking", "AccessTrackingJob", "0"], ["--plot", picture, "--html", page]
    command = [*job, "access-tracking", "-b", "4MiB", *map(str, drawn)]
    code, shown, said = from_the_beginning(COMMAND, *command)
    assert code == 130
    assert "interrupted" in shown
    for path in (picture, page):
        assert f"s2pt: {path} is not written: " in said
        assert not path.exists()


def test_bench_prints_the_rows_that_it_has() -> None:
    rows = ["bench", "--rows", "lookup,fault_page", "--rounds", "65535", "--size", "2MiB"]
    shown = interrupted("s2pt.cli.bench", "BenchJob", 7, *rows)
    assert "interrupted: 2 rows were measured, " in shown
    found = json.loads(interrupted("s2pt.cli.bench", "BenchJob", 7, *rows, "--json"))
    assert found["complete"] is False
    assert [row["id"] for row in found["rows"]] == ["lookup", "fault_page"]
    assert all(row["rounds"] > 0 for row in found["rows"])


def test_nothing_measured_is_nothing_printed() -> None:
    shown = interrupted("s2pt.cli.bench", "BenchJob", 0, "bench", "--size", "64MiB")
    assert shown == ""


# --- interrupts at any moment -----------------------------------------------------------------------------------------

# The command from its very beginning, interrupted where a module is looked for.
IMPORTING = """
import os, signal, sys

class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == wanted:
            os.kill(os.getpid(), signal.SIGINT)

signal.signal(signal.SIGINT, signal.default_int_handler)
wanted = sys.argv.pop(1)
sys.meta_path.insert(0, Interrupt())
from s2pt_command import main
main()
"""

# The same, interrupted at each look at the job, at each line that is printed, and after the last.
EAGER = """
import builtins, os, signal, sys
import s2pt.cli.dirty_log as command

def interrupt():
    os.kill(os.getpid(), signal.SIGINT)

def watched(**options):
    job = inner(**options)

    class Watched:
        start, progress, cancel, result = job.start, job.progress, job.cancel, job.result

        def wait(self, timeout_s):
            if job.progress()[0] >= 1024:
                interrupt()
            return job.wait(0.001)

    return Watched()

def shout(*texts, **options):
    if texts and str(texts[0]).startswith("\\nvCPUs"):
        shout.told = True
    if shout.told:
        interrupt()
    say(*texts, **options)

shout.told = False
signal.signal(signal.SIGINT, signal.default_int_handler)
inner, command.DirtyLogJob = command.DirtyLogJob, watched
say, builtins.print = builtins.print, shout
from s2pt_command import main
try:
    main()
finally:
    interrupt()
"""


def from_the_beginning(program: str, *arguments: str) -> tuple[int, str, str]:
    done = subprocess.run([sys.executable, "-c", program, *arguments], capture_output=True, text=True, timeout=300)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.parametrize("module", ["s2pt", "numpy", "s2pt._core", "s2pt.cli", "typer", "s2pt.cli.app", "s2pt.trace"])
def test_an_interrupt_among_the_imports_ends_the_command(module: str) -> None:
    assert from_the_beginning(IMPORTING, module, "explain", "0x3") == (130, "", "s2pt: error: interrupted\n")


def test_interrupts_that_follow_the_first_do_not_take_the_report() -> None:
    code, shown, said = from_the_beginning(EAGER, *ENDLESS_LOG)
    assert (code, said) == (130, "s2pt: error: interrupted\n")
    assert "vCPUs 2, policy lockless: interrupted\nPopulate memory time: " in shown
    assert "Seconds by vCPU count and policy" in shown
