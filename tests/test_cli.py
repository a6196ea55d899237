"""The command line: what it prints, what it refuses and how."""

from __future__ import annotations

import json
import lzma
import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from traces import DATA, SNAPSHOTS, read_known

from s2pt._core import BenchJob
from s2pt.cli.app import run

POLICIES = ["serial", "parallel", "lockless"]

Command = Callable[..., str]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run the command in this process; it must end well. Gives what it printed."""

    def call(*arguments: object) -> str:
        code = run([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert (code, err) == (0, "")
        return out

    return call


@pytest.fixture
def result(command: Command) -> Callable[..., dict[str, Any]]:
    def call(*arguments: object) -> dict[str, Any]:
        value = json.loads(command(*arguments, "--json"))
        assert isinstance(value, dict)
        return value

    return call


@pytest.fixture
def refused(capsys: pytest.CaptureFixture[str]) -> Command:
    """Run a command that is a mistake: exit code 2, one line. Gives that line."""

    def call(*arguments: object) -> str:
        assert run([str(argument) for argument in arguments]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("s2pt: error: ")
        assert err.count("\n") == 1
        assert err.endswith("\n")
        return err.removeprefix("s2pt: error: ").rstrip()

    return call


# --- dirty-log -----------------------------------------------------------------------------------------------------


def faults(run_: dict[str, Any]) -> dict[str, int]:
    return {phase["phase"]: sum(phase["faults"].values()) for phase in run_["phases"]}


def test_dirty_log_prints_the_phases_of_the_test_and_a_table(command: Command) -> None:
    out = command("dirty-log", "-v", "1,2", "-b", "4MiB", "-s", "anonymous_thp")
    for title in (
        "Populate memory time",
        "Enabling dirty logging time",
        "Iteration 1 dirty memory time",
        "Iteration 1 get dirty log time",
        "Iteration 1 clear dirty log time",
        "Iteration 2 dirty memory time",
        "Iteration 2 get dirty log time",
        "Iteration 2 clear dirty log time",
        "Disabling dirty logging time",
    ):
        lines = [line for line in out.splitlines() if line.startswith(f"{title}: ")]
        assert len(lines) == 6
        for line in lines:
            seconds, nine = line.split(": ")[1].split("s")[0].split(".")
            assert seconds.isdigit()
            assert len(nine) == 9
            assert nine.isdigit()
    assert out.count("Get dirty log over 2 iterations took") == 6
    assert out.count("Clear dirty log over 2 iterations took") == 6
    table = out[out.index("Seconds by vCPU count and policy") :]
    header = next(line for line in table.splitlines() if "vCPUs" in line and "phase" in line)
    assert header.split() == ["phase", "vCPUs", *POLICIES]
    assert "Iteration 2 dirty memory" in table


@pytest.mark.parametrize("policy", POLICIES)
def test_dirty_log_takes_the_faults_of_kvm_with_initially_all_set(
    result: Callable[..., dict[str, Any]], policy: str
) -> None:
    options = ("-v", 2, "-b", "4MiB", "-s", "thp", "-i", 3, "--policy", policy)
    (run_,) = result("dirty-log", *options)["runs"]
    counted = faults(run_)
    # A block each 2 MiB; logging protects nothing until the first clear, and then each page once in each iteration.
    assert counted["populate"] == 4
    assert counted["dirty 1"] == 0
    assert counted["dirty 2"] == counted["dirty 3"] == 2048
    pages = {phase["phase"]: phase["found"] for phase in run_["phases"] if phase["found"] is not None}
    assert pages == {"get 1": 2048, "get 2": 2048, "get 3": 2048}
    assert (run_["stats"]["locked"], run_["stats"]["frozen"]) == (0, 0)


def test_dirty_log_without_manual_protect_faults_from_the_first_iteration(
    result: Callable[..., dict[str, Any]],
) -> None:
    (run_,) = result("dirty-log", "-b", "2MiB", "-s", "pages", "-g", "--policy", "lockless")["runs"]
    assert faults(run_)["populate"] == faults(run_)["dirty 1"] == faults(run_)["dirty 2"] == 512
    assert "clear 1" not in faults(run_)


def test_dirty_log_reads_leave_pages_clean(result: Callable[..., dict[str, Any]]) -> None:
    options = ("-b", "2MiB", "-s", "pages", "-g", "-a", "-r", 7, "--policy", "serial")
    value = result("dirty-log", "-w", 0, *options)
    get = next(phase for phase in value["runs"][0]["phases"] if phase["phase"] == "get 1")
    assert get["found"] == 0
    assert value["options"]["random"] is True
    assert value["options"]["seed"] == 7
    half = result("dirty-log", "-w", 50, *options)["runs"][0]
    again = result("dirty-log", "-w", 50, *options)["runs"][0]
    found = [next(phase["found"] for phase in one["phases"] if phase["phase"] == "get 1") for one in (half, again)]
    assert found[0] == found[1]
    assert 0 < found[0] < 512


def test_stalled_tlbis_hold_up_all_vcpus_only_under_the_serial_policy(result: Callable[..., dict[str, Any]]) -> None:
    """Each TLBI sleeps 20 ms: stalls one after the other take their sum at least, stalls side by side far less."""
    options = ("-v", 8, "-b", "32KiB", "-s", "pages", "--stall-tlbi", "20ms", "-g", "-i", 1)
    times = {}
    for one in result("dirty-log", *options)["runs"]:
        (dirty,) = [phase for phase in one["phases"] if phase["phase"] == "dirty 1"]
        assert sum(dirty["maintenance"][name] for name in ("tlbi_ipa", "tlbi_range", "tlbi_local", "tlbi_vmid")) == 64
        times[one["policy"]] = dirty["elapsed_ns"] / (64 * 20_000_000)
    assert times["serial"] >= 1
    assert times["parallel"] < 0.5
    assert times["lockless"] < 0.5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-v", "0"], "'0' is not a whole number from 1 on"),
        (["-v", "1,x"], "'x' is not a whole number from 1 on"),
        (["-b", "1.5G"], "size '1.5G' is not a number of bytes such as"),
        (["-b", "100"], "0x64"),
        (["-b", "6000"], "0x1770"),
        (["-s", "tape"], "backing 'tape' is none of pages, anonymous,"),
        (["-w", "101"], "100"),
        (["-i", "0"], "'-i'"),
        (["--policy", "hope"], "policy must be one of 'serial', 'parallel', 'lockless', not 'hope'"),
        (["--stall-tlbi", "200"], "'200' is not a cost such as 200us"),
        (["--nonsense"], "--nonsense"),
    ],
)
def test_dirty_log_refuses(refused: Command, arguments: list[str], message: str) -> None:
    assert message in refused("dirty-log", *arguments)


# --- replay --------------------------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def traces_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command have the recorded guests as they were read before; all other files it reads itself."""
    monkeypatch.setattr(sys.modules["s2pt.cli.replay"], "read", read_known)


@pytest.mark.parametrize(
    ("tag", "faults_", "mmio", "leaves"),
    [("thpoff_2vcpu", 40328, 15587, [24538]), ("thpon_2vcpu", 15658, 15587, [52])],
)
@pytest.mark.parametrize("sizes", ["recorded", "trace"])
def test_replay_in_order_arrives_at_kvms_tables(
    result: Callable[..., dict[str, Any]], tag: str, faults_: int, mmio: int, leaves: list[int], sizes: str
) -> None:
    (run_,) = result("replay", DATA / f"{tag}.txt.xz", "--order", "recorded", "--sizes", sizes, "--check")["runs"]
    assert (run_["faults"], run_["mmio"]) == (faults_, mmio)
    assert [(dump["theirs"], dump["ours"], dump["same"]) for dump in run_["dumps"]] == [(n, n, n) for n in leaves]
    assert (run_["levels"]["agree"], run_["levels"]["differ"]) == (faults_, 0)
    assert (run_["stats"]["locked"], run_["stats"]["frozen"]) == (0, 0)


@pytest.mark.parametrize("tag", ["thpoff_2vcpu", "thpon_2vcpu"])
def test_replay_with_racing_vcpus_arrives_at_the_same_tables(result: Callable[..., dict[str, Any]], tag: str) -> None:
    runs = result("replay", DATA / tag, "--threads", "--policy", ",".join(POLICIES), "--check")["runs"]
    assert [run_["policy"] for run_ in runs] == POLICIES
    for run_ in runs:
        assert run_["threads"] == 2
        for dump in run_["dumps"]:
            assert dump["theirs"] == dump["ours"] == dump["same"]


@pytest.mark.parametrize(
    "arguments", [["--sizes", "recorded"], ["--sizes", "trace"], ["--threads"], ["-j", "8"]], ids=" ".join
)
def test_replay_of_a_migration_with_kvms_semantics_arrives_at_kvms_tables(
    result: Callable[..., dict[str, Any]], arguments: list[str]
) -> None:
    (run_,) = result("replay", DATA / "migrate_2vcpu", "--semantics", "kvm", *arguments, "--check")["runs"]
    assert [(dump["theirs"], dump["ours"], dump["same"]) for dump in run_["dumps"]] == [(8135,) * 3, (19113,) * 3]
    if "--sizes" in arguments:
        assert (run_["levels"]["agree"], run_["levels"]["differ"]) == (39_453, 2)


@pytest.mark.parametrize("prefix", ["k612_trace_thp", "k612_trace_pt_thp"])
def test_replay_of_snapshots_with_kvms_semantics_arrives_at_every_one(
    result: Callable[..., dict[str, Any]], prefix: str
) -> None:
    (run_,) = result("replay", SNAPSHOTS / prefix, "--semantics", "kvm", "--check")["runs"]
    assert run_["dumps"]
    for dump in run_["dumps"]:
        assert dump["theirs"] == dump["ours"] == dump["same"]


def test_replay_refuses_kvms_recorded_calls_out_of_order(refused: Command) -> None:
    wanted = ["replay", DATA / "migrate_2vcpu", "--semantics", "kvm", "--threads", "--sizes", "recorded"]
    assert "take sizes trace with threads" in refused(*wanted)


def test_replay_of_a_migration_differs_by_what_exact_split_keeps(result: Callable[..., dict[str, Any]]) -> None:
    value = result("replay", DATA / "migrate_2vcpu.txt.xz", "--policy", ",".join(POLICIES), "--check")
    assert [run_["policy"] for run_ in value["runs"]] == POLICIES
    for run_ in value["runs"]:
        assert [dump["causes"] for dump in run_["dumps"]] == [
            {"kept by exact split": 8729},
            {"kept by exact split": 898},
        ]
        assert [dump["same"] for dump in run_["dumps"]] == [8135, 19113]
        assert run_["levels"]["agree"] == 39_453
        assert [level["cause"] for level in run_["levels"]["differing"]] == ["call of another vCPU in flight"] * 2


def test_replay_free_keeps_the_invariants(result: Callable[..., dict[str, Any]]) -> None:
    value = result("replay", DATA / "migrate_2vcpu.txt.xz", "--free", "--repeat", 3, "--check")
    assert [run_["repeat"] for run_ in value["runs"]] == [1, 2, 3]
    for run_ in value["runs"]:
        assert run_["dumps"] == []
        assert (run_["stats"]["locked"], run_["stats"]["frozen"]) == (0, 0)


@pytest.mark.parametrize("threads", [1, 2, 4, 8])
@pytest.mark.parametrize(("prefix", "populated"), [("k612_trace_thp", 30), ("k612_trace_pt_thp", 24)])
def test_replay_of_snapshot_runs(
    result: Callable[..., dict[str, Any]], prefix: str, populated: int, threads: int
) -> None:
    (run_,) = result("replay", SNAPSHOTS / prefix, "--threads", "-j", threads, "--check")["runs"]
    assert run_["threads"] == threads
    first = run_["dumps"][0]
    assert (first["theirs"], first["ours"], first["same"]) == (populated, populated, populated)


def test_replay_prints_what_happened(command: Command) -> None:
    out = command("replay", SNAPSHOTS / "k612_trace_thp", "--differences", 1)
    for text in (
        "k612_trace_thp: kernel 6.12, 2 vCPUs, 1,240 faults in ",
        "recorded: mmio 6; unknown 1,234",
        "note: slot changes and write protection follow from the phases of the test",
        "policy lockless, order recorded, sizes trace",
        "  1,240 faults in ",
        " per second",
        "  by kind: ",
        "  by outcome: ",
        "6 exit mmio",
        "retries ",
        "18 write-protected",
        "  TLBIs ",
        "  table frames ",
        "entries locked 0, frozen 0",
        "  levels: 1,228 agree with the syndrome, 1 differ, 11 of stage 1",
        "syndrome level 0, our walk ends at level 2 (times of calls not recorded)",
        "  dump populated: 30 leaves, ours 30, 30 equal, 0 differences",
        "  dump iter1_dirtied: 683 leaves, ours 1,563, 683 equal, 880 differences",
        "    only ours: 880 kept by exact split",
        "(--differences 0 prints all)",
    ):
        assert text in out
    whole = command("replay", SNAPSHOTS / "k612_trace_thp", "--differences", 0)
    assert "(--differences 0 prints all)" not in whole
    assert len(whole.splitlines()) > 10 * len(out.splitlines())


def test_replay_check_tells_unexplained_differences(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A dump with one leaf at another address: nothing explains that."""
    for path in DATA.glob("thpon_2vcpu.*"):
        (tmp_path / path.name).symlink_to(path)
    leaves = tmp_path / "thpon_2vcpu.end.leaves.json.xz"
    about = json.loads(lzma.decompress(leaves.read_bytes()))
    about["leaf_runs"][0][2] = "0x7fe00000"
    leaves.unlink()
    leaves.write_bytes(lzma.compress(json.dumps(about).encode()))
    assert run(["replay", str(tmp_path / "thpon_2vcpu.txt.xz")]) == 0
    out = capsys.readouterr().out
    assert "dump end: 52 leaves, ours 52, 51 equal, 1 differences" in out
    assert "0x40000000 pa: theirs 2MiB at 0x7fe00000 RWX, ours 2MiB at 0x51e00000 RWX (unknown)" in out
    assert run(["replay", str(tmp_path / "thpon_2vcpu.txt.xz"), "--check"]) == 1


def test_replay_refuses(refused: Command, tmp_path: Path) -> None:
    assert "no such file" in refused("replay", tmp_path / "nothing.txt")
    assert "sizes from" in refused("replay", SNAPSHOTS / "k612_trace_thp", "--sizes", "recorded")
    assert "contradict" in refused("replay", DATA / "thpon_2vcpu.txt.xz", "--order", "free", "--threads")
    text = lzma.decompress((DATA / "thpon_2vcpu.txt.xz").read_bytes())
    cut = tmp_path / "thpon_2vcpu.txt"
    cut.write_bytes(text[: len(text) // 2])
    assert refused("replay", cut).startswith("thpon_2vcpu.txt:")
    cut.write_bytes(text[: text.rindex(b"\n", 0, -1) + 1])
    assert "expected 15,858 events, found 15,857: the file is cut off" in refused("replay", cut)
    cut.write_bytes(text)
    assert refused("replay", cut) == (
        "thpon_2vcpu.txt: expected thpon_2vcpu.json beside it: it holds the memory slots and the vCPU threads"
    )


# --- inspect -------------------------------------------------------------------------------------------------------


def test_inspect_shows_a_real_table(command: Command) -> None:
    out = command("inspect", DATA / "thpon_2vcpu.end.bin.xz")
    for text in ("VTCR_EL2 0x1802e3558", "VTTBR_EL2 0x10000438cc001", "IPA space of 40 bits", "root at 0x438cc000"):
        assert text in out
    counts = out[out.index("leaves by size and permission") :]
    assert [line.split() for line in counts.splitlines() if "2MiB" in line][:2] == [
        ["2MiB", "RWX", "8", "16MiB"],
        ["2MiB", "RW", "44", "88MiB"],
    ]


def test_inspect_json_holds_every_leaf(result: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    plain = tmp_path / "table.bin"
    plain.write_bytes(lzma.decompress((DATA / "thpon_2vcpu.end.bin.xz").read_bytes()))
    value = result("inspect", plain)
    assert value["vtcr"] == 0x1802E3558
    assert (value["geometry"]["ipa_bits"], value["geometry"]["start_level"], value["geometry"]["root_frames"]) == (
        40,
        1,
        2,
    )
    about = json.loads(lzma.decompress((DATA / "thpon_2vcpu.end.leaves.json.xz").read_bytes()))
    runs = [(int(ipa, 16), int(size, 16), int(pa, 16)) for ipa, size, pa, _, _ in about["leaf_runs"]]
    expected = [(ipa + at, 2 << 20, pa + at) for ipa, size, pa in runs for at in range(0, size, 2 << 20)]
    assert [(leaf["ipa"], leaf["size"], leaf["pa"]) for leaf in value["leaves"]] == expected


def test_inspect_refuses(refused: Command, tmp_path: Path) -> None:
    data = lzma.decompress((DATA / "thpon_2vcpu.end.bin.xz").read_bytes())
    assert "missing.bin" in refused("inspect", tmp_path / "missing.bin")
    for name, content in [("cut", data[:5000]), ("garbage", b"garbage" * 1000), ("empty", b"")]:
        path = tmp_path / f"{name}.bin"
        path.write_bytes(content)
        assert refused("inspect", path).startswith(f"{name}.bin: ")
    packed = tmp_path / "cut.bin.xz"
    packed.write_bytes(lzma.compress(data)[:-30])
    assert "cut.bin.xz is cut off or no xz file" in refused("inspect", packed)


# --- decode --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "texts"),
    [
        (
            ["entry", "0x400000400007fd", "--level", "2"],
            ["output address 0x40000000", "read and write", "not executable"],
        ),
        (["entry", "400", "-l", "3"], ["locked: between break and make"]),
        (["vtcr", "0x1802e3558"], ["IPA space of 40 bits", "LPA2 descriptors", "start level 1, 2 root frames"]),
        (["vttbr", "0x10000438cc001", "--vtcr", "0x1802e3558"], ["VMID 1", "root at 0x438cc000"]),
        (["esr", "0x93d88044"], ["translation fault, level 0", "write"]),
        (
            ["esr", "0x93d88044", "--far", "0xc0400000", "--hpfar", "0xffffffa000"],
            ["write to IPA 0xffffffa00000: translation fault, level 0"],
        ),
    ],
)
def test_decode_explains(command: Command, arguments: list[str], texts: list[str]) -> None:
    out = command("decode", *arguments)
    for text in texts:
        assert text in out


def test_decode_json(result: Callable[..., dict[str, Any]]) -> None:
    value = result("decode", "esr", "0x93d88044")
    assert value["value"] == 0x93D88044
    assert {"bits": "31:26", "name": "EC", "value": 36, "meaning": "data abort from a lower exception level"} in value[
        "fields"
    ]


def test_decode_refuses(refused: Command) -> None:
    assert "entry 'zz' is not a hex number" in refused("decode", "entry", "zz")
    assert "does not fit in 64 bits" in refused("decode", "entry", "0x10000000000000000")
    assert "level" in refused("decode", "entry", "0x0", "--level", "4")
    assert refused("decode", "entry", "0x0", "--granule", "8KiB")


# --- bench ---------------------------------------------------------------------------------------------------------


def test_bench_measures_every_row_of_the_budget_table(result: Callable[..., dict[str, Any]]) -> None:
    value = result("bench", "--size", "2MiB", "--rounds", 3)
    assert value["options"] == {"rows": None, "rounds": 3, "size": 2 << 20}
    assert {"s2pt", "processor", "system"} <= value["machine"].keys()
    rows = {row["id"]: row for row in value["rows"]}
    assert rows.keys() >= {"fault_page", "lookup", "write_protect_exclusive", "unmap_shared", "split_block", "collapse"}
    for row in rows.values():
        assert row["operations"] in (512, 1)
        assert row["rounds"] == 3
        assert 0 < row["minimum_ns"] <= row["median_ns"]
    assert rows["fault_page"]["budget_ns"] == 15
    assert rows["collapse"]["kvm_ns"] == 4360


def test_bench_prints_the_rows_asked_for(command: Command) -> None:
    out = command("bench", "--size", "4MiB", "--rounds", 1, "--rows", "lookup,fault_page", "--rows", "epoch_pin")
    assert "guest memory: 4MiB (the budgets are for 1GiB), 1 rounds" in out
    lines = [line.split() for line in out[out.index("Nanoseconds") :].splitlines()]
    named = [words[0] for words in lines if len(words) > 5 and words[0] != "row"]
    assert named == ["lookup", "fault_page", "epoch_pin"]
    (budget,) = (words for words in lines if words[:1] == ["fault_page"])
    assert "38" in budget
    assert "15" in budget
    assert budget[-1] == "x"


def test_bench_refuses(refused: Command) -> None:
    assert refused("bench", "--rows", "nap").startswith('no row is called "nap"; the rows are fault_page, ')
    assert "size 0x300000 " in refused("bench", "--size", "3MiB")
    assert "size 0x0 " in refused("bench", "--size", "0")
    assert "size 0x10000000000 " in refused("bench", "--size", "1TiB")
    assert "rounds" in refused("bench", "--rounds", 0)


def test_a_measurement_ends_when_it_is_told_to() -> None:
    job = BenchJob(rounds=65535, size="64MiB")
    job.start()
    while job.progress()[0] < 2:
        assert not job.wait(0.001)
    job.cancel()
    assert job.wait(60)
    found = job.result()
    assert found["complete"] is False
    assert all(0 < row["rounds"] < 65535 and row["minimum_ns"] <= row["median_ns"] for row in found["rows"])
    early = BenchJob(rounds=3, rows=["lookup"], size="2MiB")
    early.cancel()
    early.start()
    assert early.wait(60)
    assert early.result() == {"complete": False, "rows": []}


# --- the command itself --------------------------------------------------------------------------------------------


def test_no_such_command(refused: Command) -> None:
    assert "bogus" in refused("bogus")


def test_help_names_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["--help"]) == 0
    out = capsys.readouterr().out
    for name in ("dirty-log", "replay", "inspect", "decode", "bench"):
        assert name in out


def test_module_runs_as_the_command() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "s2pt", "decode", "entry", "0x0"], capture_output=True, text=True, check=True
    )
    assert "nothing mapped" in done.stdout
    assert done.stderr == ""
    wrong = subprocess.run([sys.executable, "-m", "s2pt", "replay", "nowhere.txt"], capture_output=True, text=True)
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (2, "", 1)


def test_reader_that_leaves_early_is_no_error() -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "s2pt", "inspect", str(DATA / "thpon_2vcpu.end.bin.xz")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    assert process.stderr.read() == b""
    process.stderr.close()
    assert process.wait() == 0


LONG = ["dirty-log", "-b", "64MiB", "-s", "thp", "-g", "--stall-tlbi", "1ms", "--policy", "serial"]


def test_interrupt_ends_the_run() -> None:
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "s2pt", *LONG],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # Whoever starts the tests in the background has them ignore the signal, and children inherit that.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    assert process.stdout is not None
    # The options are printed right before the threads start; a minute of work lies behind them.
    assert process.stdout.readline().startswith("Test iterations")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert (process.returncode, err) == (130, "s2pt: error: interrupted\n")


def test_terminal_shows_progress() -> None:
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-m", "s2pt", "dirty-log", "-b", "4MiB", "--policy", "serial"],
        stdout=subprocess.DEVNULL,
        stderr=slave,
        env={**os.environ, "TERM": "xterm"},
    )
    os.close(slave)
    shown = b""
    try:
        while part := os.read(master, 4096):
            shown += part
    except OSError:  # what Linux says when the last holder of the other end has gone
        pass
    os.close(master)
    assert process.wait() == 0
    assert b"1 vCPUs, serial:" in shown
