"""Tables as text and back, differences of anything with anything; and the commands for it."""

from __future__ import annotations

import json
import lzma
import pickle
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tables import IPA, MIB, PA, PAGE, SHAPES, table
from test_python_image import snapshots

import s2pt
import s2pt.image
from s2pt import DumpStyle, Prot, PtdumpError, Stage2
from s2pt.image import Image, Ptdump, diff
from s2pt.model import ModelStage2

# --- the text ------------------------------------------------------------------------------------------------------


def test_the_text_of_every_snapshot_is_the_kernels():
    with_text = 0
    for name, (dump, sidecar) in snapshots().items():
        if not sidecar.get("kernel_ptdump"):
            continue
        image = Image.from_bytes(dump)
        text = "\n".join(sidecar["kernel_ptdump"])
        assert image.dump("kvm6") == text + "\n", name
        read = Ptdump(text)
        runs = image.dump_runs("kvm6")
        assert read.runs[: len(runs) - 1] == runs[:-1], name
        assert read.runs == Ptdump(text.encode()).runs
        assert diff(image, read) == diff(read, image) == read.diff(read) == []
        with_text += 1
    assert with_text == 15


def test_a_live_table_as_text_and_back():
    s2 = table()
    read = Ptdump(s2.dump())
    assert read.runs == s2.image().dump_runs()
    mapped = [run for run in read.runs if run.kind == "mapped"]
    assert sum(run.size for run in mapped) == s2.stats().mapped_bytes
    assert [(run.ipa, run.prot, run.level) for run in mapped] == [
        (IPA, Prot.RW, 2),
        (IPA + 2 * MIB, Prot.R, 3),
        (IPA + 2 * MIB + 3 * PAGE, Prot.RW, 3),
        (IPA + 6 * MIB, Prot.RX, 3),
    ]
    assert repr(mapped[0]) == "PtdumpRun(ipa=0x80000000, size=2MiB, level=2, kind=mapped, prot=RW, af=True)"
    assert read.end == 1 << 40
    assert s2.dump() == s2.image().dump() == s2.dump(DumpStyle.EXACT)
    assert Ptdump(s2.dump("kvm7")).end < 1 << 40
    with pytest.raises(ValueError, match="style must be one of 'exact', 'kvm6', 'kvm7', not 'kvm'"):
        s2.dump("kvm")
    with pytest.raises(TypeError):
        s2.dump(6)


@pytest.mark.parametrize("options", SHAPES)
def test_text_of_every_shape_reads_back(options):
    s2 = Stage2(**options)
    s2.map(0, 1 << 32, pa=1 << 33, prot=Prot.RW)
    s2.unmap(1 << 31, s2.geometry.granule)
    for style in DumpStyle:
        read = Ptdump(s2.dump(style))
        assert diff(s2, read) == []
    assert Ptdump(s2.dump()).end == 1 << s2.geometry.ipa_bits


def test_wrong_text_names_the_line():
    good = table().dump("kvm6")
    lines = good.splitlines()
    cases = {
        "": (1, "the text is empty"),
        "garbage\n": (1, "is neither"),
        "\n".join(lines[:3]) + "\n" + "\n".join(lines[4:]): (
            4,
            "the run begins at 0x80203000, the one before",
        ),
        good.replace("2M 2 ", "4M 2 ", 1): (3, "the size is"),
        good + good: (len(lines) + 1, "is no run of entries"),
        good[: len("\n".join(lines[:3])) - 2]: (3, "no such columns"),
        "0x\ud800": (1, "is no run of entries"),
        "0x" + "f" * 70: (1, "is no run of entries"),
    }
    for text, (line, message) in cases.items():
        with pytest.raises(PtdumpError, match=message) as caught:
            Ptdump(text)
        assert caught.value.line == line, text
        assert str(caught.value).startswith(f"line {line}: ")
        assert isinstance(caught.value, s2pt.ImageError)
    with pytest.raises(PtdumpError):
        Ptdump(b"0x\xff\xfe\x00")
    for wrong in (None, 5, [good], bytearray(good.encode())):
        with pytest.raises(TypeError, match="text must be str or bytes, not"):
            Ptdump(wrong)


LETTERS = st.text("0123456789abcdefxKMGRWXAFBLKpxuUN- \n\r[\0\u00e9", max_size=2)


def read_or_line(text):
    """Read a text; of one that is refused, the number of the line."""
    try:
        return Ptdump(text)
    except PtdumpError as error:
        return error.line if str(error).startswith(f"line {error.line}: ") else None


@given(st.data())
def test_damaged_text_is_refused_or_still_a_text(data):
    text = table().dump(data.draw(st.sampled_from(list(DumpStyle))))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(text) - 1))
        text = text[:at] + data.draw(LETTERS) + text[at + data.draw(st.integers(0, 2)) :]
    read = read_or_line(text)
    if isinstance(read, int):
        assert 1 <= read <= text.count("\n") + 1
        return
    assert read is not None
    assert all(one.ipa + one.size == two.ipa for one, two in pairwise(read.runs))
    assert not read.runs or read.runs[0].ipa == 0


# --- differences ---------------------------------------------------------------------------------------------------


def test_anything_against_anything(tmp_path):
    s2 = table()
    image, text = s2.image(), Ptdump(s2.dump())
    plain, packed, written = tmp_path / "a.bin", tmp_path / "a.bin.xz", tmp_path / "a.txt"
    plain.write_bytes(image.to_bytes())
    packed.write_bytes(lzma.compress(image.to_bytes()))
    written.write_text(s2.dump("kvm6"))
    forms = [s2, image, text, plain, str(packed), written]
    for a, b in product(forms, forms):
        assert diff(a, b) == []
    s2.unmap(IPA, 8 * PAGE)
    for other in forms[1:]:
        smaller, gone = sorted(diff(s2, other), key=lambda one: one.size, reverse=True)
        assert (gone.ipa, gone.size, gone.what, gone.a) == (IPA, 8 * PAGE, ("only_b",), None)
        assert (smaller.ipa, smaller.what) == (IPA + 8 * PAGE, ("size",))
        assert [one.what for one in diff(other, s2)] == [("only_a",), ("size",)]
        assert gone.b.prot == Prot.RW
        assert gone.b.pa in (PA, None)
    for wrong in (None, 5, b"text", table(ModelStage2)):
        with pytest.raises(TypeError, match="a table must be a Stage2, an Image, a Ptdump or a path, not"):
            diff(s2, wrong)
    with pytest.raises(TypeError, match="other must be an Image or a Ptdump, not"):
        image.diff(s2)


def test_each_difference_says_what_it_is():
    a, b = Stage2(), Stage2()
    for s2 in (a, b):
        s2.map(0, "2MiB", pa=PA)
        s2.map(2 * MIB, "2MiB", pa=PA + 4 * MIB)
    b.map(2 * MIB, "2MiB", pa=PA + 8 * MIB, prot=Prot.R)
    b.test_and_clear_young(0, "2MiB")
    first, second = diff(a, b)
    assert str(first) == "0x0 +2MiB: access flag 1 / 0"
    assert str(second) == "0x200000 +2MiB: output 0x40400000 / 0x40800000, permission RW / R"
    assert repr(second.a) == "Side(level=2, leaf_size=2MiB, pa=0x40400000, prot=RW, af=True)"
    assert (second.a.memtype, second.b.invalid) == (s2pt.MemType.NORMAL, None)
    c = Stage2()
    c.map(0, "2MiB", pa=PA, memtype="device-nGnRE", software=5)
    c.map(2 * MIB, "2MiB", pa=PA + 4 * MIB)
    (only,) = diff(a, c)
    assert str(only) == "0x0 +2MiB: memory normal / device-nGnRE, software bits 0x0 / 0x5"
    assert pickle.loads(pickle.dumps(only)) == only


def test_owners_count_as_differences():
    owned = Image.from_bytes(snapshots()["k612_pkvm_thp_iter1_dirtied"][0])
    data = bytearray(owned.to_bytes())
    at = next(
        i + 8 * j
        for i in range(56, len(data), 8 + PAGE)
        for j in range(512)
        if data[i + 8 * j : i + 8 * j + 8] == (4).to_bytes(8, "little")
    )
    data[at] = 8
    (one,) = owned.diff(Image.from_bytes(bytes(data)))
    assert (one.what, one.size, one.a.invalid, one.b.invalid) == (("invalid",), PAGE, 4, 8)
    assert str(one).endswith("invalid 0x4 / invalid 0x8")


def test_files_that_are_neither(tmp_path):
    cut = b"---[ Guest IPA ]---\n0x"
    for name, data in {"garbage": b"\0" * 100, "empty": b"", "cut.bin": b"S2DUMP01\0", "cut.txt": cut}.items():
        file = tmp_path / name
        file.write_bytes(data)
        with pytest.raises(s2pt.ImageError, match=f"^{name}: "):
            s2pt.image.load(file)
    with pytest.raises(PtdumpError) as caught:
        s2pt.image.load(tmp_path / "cut.txt")
    assert caught.value.line == 2
    with pytest.raises(FileNotFoundError):
        diff(tmp_path / "none", tmp_path / "none")


# --- the command ---------------------------------------------------------------------------------------------------


def run(capsys, *arguments):
    from s2pt.cli.app import run

    code = run([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.fixture
def files(tmp_path):
    s2 = table()
    (tmp_path / "a.bin").write_bytes(s2.image().to_bytes())
    (tmp_path / "a.txt").write_text(s2.dump("kvm6"))
    s2.write_protect(IPA, "4MiB")
    (tmp_path / "b.bin").write_bytes(s2.image().to_bytes())
    return tmp_path


def test_command_diff(capsys, files):
    assert run(capsys, "diff", files / "a.bin", files / "a.bin") == (0, "no differences\n", "")
    code, out, err = run(capsys, "diff", files / "a.bin", files / "a.txt")
    assert (code, err) == (0, "")
    first, second = out.splitlines()
    assert first == "no differences"
    assert second == "compared up to 0xc0000000, where the text ends, and only what it shows (no output addresses)"
    code, out, err = run(capsys, "diff", files / "a.bin", files / "b.bin")
    assert (code, err) == (1, "")
    row = " ".join(next(line for line in out.splitlines() if line.strip().startswith("0x")).split())
    assert row == "0x80000000 0x80200000 2MiB 2MiB RW to 0x40000000 2MiB R to 0x40000000 permission"
    assert "2 differences, 4084KiB in all" in out
    code, out, err = run(capsys, "diff", files / "a.bin", files / "b.bin", "--limit", 1)
    assert "... and 1 more (--limit 0 prints all)" in out
    code, out, err = run(capsys, "diff", files / "a.txt", files / "b.bin", "--json")
    said = json.loads(out)
    assert (code, err, said["equal"], said["compared_up_to"]) == (1, "", False, 0xC000_0000)
    assert [(one["ipa"], one["size"], one["what"]) for one in said["differences"]] == [
        (IPA, 2 * MIB, ["permission"]),
        (IPA + 2 * MIB + 3 * PAGE, 2 * MIB - 3 * PAGE, ["permission"]),
    ]
    assert said["differences"][0]["a"]["pa"] is None
    assert said["differences"][0]["b"]["memtype"] == "normal"


def test_command_explain(capsys, files):
    code, out, err = run(capsys, "explain", files / "a.bin", "0x8020_0010", "--access", "w")
    assert (code, err) == (0, "")
    assert out.splitlines()[-1] == "write to 0x80200010: permission fault at level 3"
    assert "page of 4KiB to 0x40200000, R, normal memory" in out
    code, out, err = run(capsys, "explain", files / "a.bin", IPA, "--json")
    said = json.loads(out)
    assert (code, said["fault"]) == (0, None)
    assert said["translation"] == {"pa": PA, "level": 2, "prot": "RW", "memtype": "normal"}
    assert [step["level"] for step in said["steps"]] == [1, 2]
    assert run(capsys, "explain", files / "a.bin", 1 << 40)[:2] == (
        0,
        "read of 0x10000000000: translation fault at level 0\n",
    )


def test_command_dump(capsys, files):
    image = s2pt.image.open(files / "a.bin")
    assert run(capsys, "inspect", files / "a.bin", "--dump") == (0, image.dump(), "")
    assert run(capsys, "inspect", files / "a.bin", "--dump", "--style", "kvm6") == (
        0,
        (files / "a.txt").read_text(),
        "",
    )


def test_command_mistakes(capsys, files):
    (files / "cut").write_text("---[ Guest IPA ]---\n0x00")
    for arguments, message in (
        (("diff", files / "a.bin", files / "none"), "No such file"),
        (("diff", files / "cut", files / "a.bin"), "cut: line 2: "),
        (("diff", files / "a.bin"), "Missing argument"),
        (("explain", files / "a.txt", "0"), "not a stage-2 dump"),
        (("explain", files / "a.bin", "address"), "IPA 'address' is not a number such as 0x80001234"),
        (("explain", files / "a.bin", "--", "-4096"), "is not in 0..0xffffffffffffffff"),
        (("explain", files / "a.bin", "0", "-a", "q"), "'q' is not one of"),
        (("inspect", files / "a.bin", "--dump", "--json"), "choose one"),
        (("inspect", files / "a.bin", "--dump", "--style", "kvm"), "'kvm' is not one of"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1), arguments
        assert message in err
