"""Recordings in files, casemate's format both ways, and `s2pt check`."""

from __future__ import annotations

import contextlib
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recordings import SETUPS, every_operation, renumbered

from s2pt import Prot, RecordingError, Stage2
from s2pt.cli.app import run
from s2pt.recording import Recording, casemate, load

LOGS = Path(__file__).parent / "data" / "casemate"
VERDICTS = {"kvm_leaf_bbm_ok": True, "kvm_leaf_bbm_missing_vmalle1is": False, "kvm_table_bbm_ok": True}


def plain(**options: object) -> Stage2:
    """Make a table that casemate can know: 4K, one root frame, and no operation that concerns one CPU."""
    s2 = Stage2(ipa_bits=39, sink="recording", **options)
    s2.map(0x4000_0000, "4MiB", pa=0x8000_0000)
    s2.map(0x4000_1000, 4096, pa=0x9000_0000)
    s2.unmap(0x4000_2000, 2 * 4096)
    s2.write_protect(0x4020_0000, "2MiB")
    s2.map(0x4000_0000, "2MiB", pa=0x4000_0000)
    s2.unmap(0x4000_0000, "4MiB")
    s2.drain()
    return s2


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["r.jsonl", "r.jsonl.xz"])
@pytest.mark.parametrize("options", [SETUPS["4K"], SETUPS["4K LPA2, level -1"], SETUPS["KVM"]], ids=str)
def test_a_saved_recording_comes_back(tmp_path, name, options):
    trace = every_operation(**options)
    trace.save(tmp_path / name)
    again = load(tmp_path / name)
    assert again == trace
    assert again.check().raise_if_bad().to_json() == trace.check().to_json()


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("files") / "r.jsonl"
    s2 = Stage2(ipa_bits=39, sink="recording")
    s2.map(0x4000_0000, 3 * 4096, pa=0x8000_0000)
    s2.map(0x4000_1000, 4096, pa=0x9000_0000)
    s2.write_protect(0x4000_0000, 4096)
    s2.trace().save(path)
    return path.read_text()


def _load(tmp_path: Path, data: bytes):
    path = tmp_path / "damaged"
    path.write_bytes(data)
    return load(path)


@given(data=st.data())
@settings(max_examples=60)
def test_damaged_files_are_refused_or_read(text, tmp_path_factory, data):
    """One line is changed, or the file is cut: never another exception."""
    lines = text.split("\n")
    at = data.draw(st.integers(0, min(len(lines), 60) - 1))
    kind = data.draw(st.sampled_from(["cut", "drop", "noise", "number", "word"]))
    if kind == "cut":
        lines = lines[:at]
    elif kind == "drop":
        del lines[at]
    elif kind == "noise":
        lines[at] = data.draw(st.text(max_size=30))
    elif kind == "number":
        lines[at] = re.sub(r"\d+", lambda _: str(data.draw(st.integers(-5, 1 << 70))), lines[at], count=2)
    else:
        lines[at] = re.sub(
            r'"[a-z_]+"', lambda _: data.draw(st.sampled_from(['"dsb"', "null", "[]", "1e9"])), lines[at]
        )
    with contextlib.suppress(RecordingError):
        _load(tmp_path_factory.mktemp("damaged"), "\n".join(lines).encode("utf-8", "replace")).check()


@pytest.mark.parametrize(
    "data", [b"", b"\xff\xfe", b"\xfd7zXZ\x00rest", b"{}", b"{", b"[1]", b"(mem-init", b"()", b"(a b)"]
)
def test_what_is_no_recording_is_refused(tmp_path, data):
    with pytest.raises(RecordingError):
        _load(tmp_path, data)


# --- casemate --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", VERDICTS)
def test_the_checker_agrees_with_casemate(name):
    report = load(LOGS / f"{name}.log").check()
    assert report.ok == VERDICTS[name]
    if not report.ok:
        [violation] = report.violations
        assert violation.invariant == "I2"
        assert "no TLBI of stage 1" in violation.text


@pytest.mark.parametrize("name", VERDICTS)
def test_every_line_comes_out_as_it_was(name):
    for line in (LOGS / f"{name}.log").read_text().splitlines():
        [read] = casemate.parse(line)
        # Numbers and threads are written in hex, without 0x, whatever they were.
        same = re.sub(r"\((id|tid) (\d+)\)", lambda found: f"({found[1]} {int(found[2], 16):x})", line)
        assert str(read) == same


@pytest.mark.parametrize("name", ["kvm_leaf_bbm_ok", "kvm_table_bbm_ok"])
def test_each_step_between_break_and_make_is_needed(name):
    lines = (LOGS / f"{name}.log").read_text().splitlines(keepends=True)
    needed = [place for place, line in enumerate(lines) if line.startswith(("(barrier", "(tlbi"))]
    assert len(needed) >= 3
    for place in needed:
        setup, events, _ = casemate.read("".join(lines[:place] + lines[place + 1 :]))
        assert not Recording(setup, events).check().ok, lines[place]


@pytest.mark.parametrize(
    "options", [{}, {"tlbi_range": False}, {"semantics": "kvm"}, {"vmid": 7, "xnx": True}], ids=str
)
def test_an_exported_log_is_well_formed_and_checks(tmp_path, options):
    trace = plain(**options).trace()
    log = trace.casemate()
    lines = list(casemate.parse(log))
    assert [line.id for line in lines] == list(range(len(lines)))
    kinds = {(line.name, line.words) for line in lines}
    assert {("mem-init", ()), ("mem-write", ()), ("barrier", ("isb",)), ("mem-free", ())} <= kinds
    ready = set()
    for line in lines:
        if line.name == "sysreg-write" and line.fields["sysreg"] == "vttbr_el2":
            ready.add(line.tid)
            assert line.number("value") == trace.setup.root | trace.setup.vmid << 48
        elif line.name == "tlbi":
            assert line.tid in ready
            assert ("value" in line.fields) == line.words[0].startswith("ipas2")
    path = tmp_path / "out.log"
    path.write_text(log)
    again = load(path).check()
    assert again.raise_if_bad().ok
    assert again["I2"].checked > 3
    # And without its stage-1 TLBIs, or its TLBIs, it is refused.
    for word in ("vmalle1is", "ipas2e1is", "dsb"):
        path.write_text("".join(line for line in log.splitlines(keepends=True) if word not in line))
        assert load(path).check()["I2"].violations, word


def test_ranges_become_single_operations():
    s2 = Stage2(ipa_bits=39, sink="recording")
    s2.map(0x4000_0000, 4 * 4096, pa=0)
    s2.map(0x4000_8000, 4096, pa=0)
    s2.unmap(0x4000_0000, 3 * 4096)
    trace = s2.trace()
    [tlbi] = [event for event in trace.events if event.kind == "tlbi_range"]
    assert (tlbi.fields["pages"], tlbi.fields["level"]) == (3, 3)
    written = [line for line in casemate.parse(trace.casemate()) if line.words == ("ipas2e1is",)]
    assert [line.number("value") for line in written] == [(0b0111 << 44) | 0x40000 + page for page in range(3)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"granule": "16KiB", "ipa_bits": 36}, "4K granule alone, not 16K"),
        ({"ipa_bits": 48, "lpa2": True, "pa_bits": 52}, "does not know LPA2"),
        ({"ipa_bits": 40}, "roots of one frame, not of 2"),
    ],
)
def test_what_casemate_cannot_say_is_refused(options, message):
    s2 = Stage2(sink="recording", **options)
    s2.map(0, 4096 * 16, pa=0)
    with pytest.raises(RecordingError, match=message):
        s2.trace().casemate()


def test_tlbis_of_one_cpu_are_refused_or_left_out():
    s2 = Stage2(ipa_bits=39, sink="recording")
    s2.map(0x4000_0000, 4096, pa=0, prot=Prot.R)
    s2.relax(0x4000_0000, 4096, Prot.RW)
    trace = s2.trace()
    with pytest.raises(RecordingError, match="DSB NSHST is of one CPU"):
        trace.casemate()
    assert not any(line.name == "tlbi" for line in casemate.parse(trace.casemate(local="leave-out")))
    with pytest.raises(RecordingError, match="local is 'x'"):
        trace.casemate(local="x")


@pytest.mark.parametrize(
    "line",
    [
        "(tlbi (id 1) (tid 0) ipas2e1is)",
        "(mem-write (id 1) (tid 0) (mem-order plain) (address 0x8) (value g))",
        "(mem-write (id 1) (tid 0) (mem-order plain) (address 0x1234567890) (value 1))",
        "(mem-write (tid 0) (address 0) (value 1))",
        "(barrier (id 1) (tid 0) dmb)",
        "(unheard (id 1) (tid 0))",
        "(mem-init (id 1) (tid 0) (address 1) (size 0x1000))",
        "(mem-init (id 1) (tid 0) (address 0x1000) (size",
        '(mem-init (id 1) (tid 0) (src "a)',
        "(mem-init (id 1) (id 2) (tid 0))",
        "(sysreg-write (id 1) (tid 0) (sysreg vttbr_el2) (value 0x99000))",
    ],
)
def test_a_wrong_line_is_named(line):
    good = (LOGS / "kvm_leaf_bbm_ok.log").read_text()
    with pytest.raises(RecordingError, match=r"^line 18: "):
        casemate.read(good + line)


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_says_yes_no_and_why_not(tmp_path, capsys):
    trace = plain().trace()
    good, bad, log = tmp_path / "good.jsonl", tmp_path / "bad.jsonl.xz", tmp_path / "out.log"
    trace.save(good)
    events = [event for event in trace.events if event.kind != "tlbi_stage1"]
    renumbered(trace, events).save(bad)
    assert run(["check", str(good), "--casemate", str(log)]) == 0
    assert "ok" in capsys.readouterr().out
    assert log.read_text() == trace.casemate()
    assert run(["check", str(bad)]) == 1
    out = capsys.readouterr().out
    assert "no TLBI of stage 1 after that of stage 2" in out
    assert "refused" in out
    assert run(["check", str(bad), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["ok"]
    assert told["violations"][0]["invariant"] == "I2"
    assert run(["check", str(LOGS / "kvm_leaf_bbm_ok.log")]) == 0
    assert run(["check", str(LOGS / "kvm_leaf_bbm_missing_vmalle1is.log")]) == 1
    capsys.readouterr()
    for arguments in (["check", str(tmp_path / "none")], ["check", str(LOGS / "README.md")], ["check"]):
        assert run(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
