"""Pictures and pages of runs, and sweeps: what is drawn is what was measured."""

from __future__ import annotations

import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from html.parser import HTMLParser
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import s2pt
from s2pt import DirtyLog, Migrate, MigrateReport, Policy, Prot, Stage2, Vm
from s2pt.cli.app import run
from s2pt.errors import OptionError
from s2pt.lab import plots, sweep
from s2pt.lab.page import migrations_page
from s2pt.lab.predict import Prediction
from s2pt.migrate import Latency, Round, Throughput
from s2pt.trace import Replay, read
from s2pt.workloads import AccessTracking, DemandPaging, Memslots, PageTable

ROOT = Path(__file__).resolve().parent.parent
QUICK = {"memory": "2MiB", "vcpus": 2, "bandwidth": "512MiB", "warm_up_s": 0.001, "rounds": 3, "downtime_s": 0.0005}
FAST = ["-b", "2MiB", "--warm-up", "1ms", "--policy", "lockless"]


def made(log: str, policy: str, factor: int) -> tuple[Migrate, MigrateReport]:
    """Make a report with known figures; a real run on a busy machine may meet no fault."""
    some = Latency(count=10 * factor, p50_ns=1000, p99_ns=9000, p999_ns=9000, max_ns=9000)
    report = MigrateReport(
        rounds=(Round(512 * factor, 1000, 100, 90 * factor), Round(90 * factor, 500, 50, 7)),
        pages_sent=602 * factor + 7,
        last_pages=7,
        downtime_ns=1_000_000,
        elapsed_ns=9_000_000,
        enabled_ns=1000,
        before=Throughput(1000, 1_000_000),
        during=Throughput(500, 1_000_000),
        lost_bytes=0,
        wrong_reads=0,
        faults={},
        outcomes={},
        latency=some,
        latency_buckets=((1000, 6 * factor), (2500, 3 * factor), (10_000, factor)),
        held_up=some,
        longest_hold_ns=0,
        violations=0,
    )
    return Migrate(**QUICK, log=log, policy=policy), report


@pytest.fixture(scope="module")
def runs() -> list[tuple[Migrate, MigrateReport]]:
    kinds = [(log, policy) for log in ("lazy", "ring") for policy in ("serial", "lockless")]
    return [made(log, policy, factor) for factor, (log, policy) in enumerate(kinds, 1)]


# --- times ------------------------------------------------------------------------------------------------------------


def test_measured_times_are_those_of_the_report() -> None:
    reports = [(policy, Vm(memory="8MiB").run(DirtyLog(vcpus=n))) for policy in ("serial", "lockless") for n in (1, 2)]
    figure = plots.times(reports)
    for axes, phase in zip(figure.axes, ("populate", "dirty 2"), strict=True):
        assert (axes.get_xlabel(), axes.get_xscale(), axes.get_yscale()) == ("vCPUs", "log", "log")
        for policy, line in zip(("serial", "lockless"), axes.containers, strict=True):
            expected = [
                one.elapsed_ns / 1e9 for name, report in reports if name == policy for one in report.phases
                if one.phase == phase
            ]  # fmt: skip
            assert line.get_label() == policy
            assert list(line[0].get_ydata()) == expected
            assert line[0].get_xdata() == pytest.approx([1, 2], rel=0.03)
    assert figure.axes[0].get_ylabel() == "time"


def test_predictions_have_bars_from_low_to_high() -> None:
    rows = [Prediction("dirty", Policy.SERIAL, n, n, 1.0 * n, 0.5 * n, 3.0 * n) for n in (1, 64)]
    (axes,) = plots.times(predictions=rows).axes
    (bars,) = axes.containers[0][2]
    assert [segment[:, 1].tolist() for segment in bars.get_segments()] == [[0.5, 3.0], [32.0, 192.0]]


@pytest.mark.parametrize(
    ("kind", "titles"),
    [
        (AccessTracking, {"populate": "Populate memory", "write": "Write it again", "mark idle 1": "Mark it idle",
                          "write idle": "Write to idle memory"}),
        (PageTable, {"create": "Create mappings", "update": "Break them up under logging",
                     "adjust": "Make them again"}),
        (DemandPaging, {"guest": "Get all pages"}),
    ],
)  # fmt: skip
def test_the_passes_of_other_tests_are_those_of_the_report(kind: Any, titles: dict[str, str]) -> None:
    options = [
        kind(vcpus=n, bytes_per_vcpu="2MiB", policy=policy) for policy in ("parallel", "lockless") for n in (1, 2)
    ]
    ran = [(one, one.run()) for one in options]
    figure = plots.steps(ran)
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes.get_title(loc="left") for axes in shown] == list(titles.values())
    for axes, name in zip(shown, titles, strict=True):
        for policy, line in zip(("parallel", "lockless"), axes.containers, strict=True):
            expected = [
                step.elapsed_ns / 1e9 for one, report in ran if one.policy == policy for step in report.phases
                if step.phase == name
            ]  # fmt: skip
            assert (line.get_label(), list(line[0].get_ydata())) == (policy, expected)
    first = {4: (0, 2)}.get(len(shown), (0,))
    assert [axes.get_ylabel() for axes in shown] == ["time" if at in first else "" for at in range(len(shown))]


def test_an_iteration_of_each_test_of_slots_has_a_panel() -> None:
    tests: Any = ["map", "unmap", "unmap-chunked", "move-active", "rw"]
    options = [Memslots(bytes_per_vcpu="2MiB", slots=2, test=test, iterations=2) for test in tests]
    ran = [(one, one.run()) for one in options]
    figure = plots.steps(ran)
    assert [axes.axison for axes in figure.axes] == [True] * 5 + [False]
    for axes, (one, report) in zip(figure.axes, ran, strict=False):
        assert axes.get_title(loc="left") == f"An iteration of {one.test}"
        assert axes.containers[0][0].get_ydata().tolist() == [report.ns_per_iteration / 1e9]
    assert [axes.get_ylabel() for axes in figure.axes] == ["time", "", "", "time", "", ""]


def test_passes_that_were_cut_short_are_not_drawn() -> None:
    options = AccessTracking(bytes_per_vcpu="64MiB", backing="pages")
    with pytest.raises(OptionError, match="there are no times to draw"):
        plots.steps([(options, options.run(progress=lambda done, total: False, poll_s=0))])
    with pytest.raises(TypeError, match="first of each of runs must be Experiment"):
        plots.steps([("lockless", None)])  # type: ignore[list-item]


def test_names_of_counts_keep_apart() -> None:
    counts = [1, 2, 4, 8, 16, 32, 48, 128, 1024]
    rows = [Prediction("dirty", Policy.SERIAL, n, n, 1.0, 0.5, 3.0) for n in counts]
    (axes,) = plots.times(predictions=rows).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "4", "8", "16", "32", "128", "1,024"]


# --- migrations ---------------------------------------------------------------------------------------------------


def test_the_curve_of_latencies_gives_back_the_buckets(runs: list[tuple[Migrate, MigrateReport]]) -> None:
    report = runs[0][1]
    axes = plots.latencies(runs[:1]).axes[0]
    (line,) = axes.get_lines()
    x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
    assert y[0] == 1
    assert (np.diff(y) <= 0).all()
    counts = -np.diff(y) * report.latency.count
    assert x[1:].tolist() == [end / 1e3 for end, _ in report.latency_buckets]
    assert counts.round(3).tolist() == [count for _, count in report.latency_buckets]


def test_a_panel_for_each_log_and_a_line_for_each_policy(runs: list[tuple[Migrate, MigrateReport]]) -> None:
    lazy, ring = plots.latencies(runs).axes
    assert (lazy.get_title(loc="left"), ring.get_title(loc="left")) == ("Faults, lazy log", "Faults, ring log")
    assert [line.get_label() for line in lazy.get_lines()] == ["serial", "lockless"]
    assert len({line.get_linestyle() for line in lazy.get_lines()}) == 2  # not by colour alone


def test_bars_are_the_pages_of_the_rounds(runs: list[tuple[Migrate, MigrateReport]]) -> None:
    figure = plots.rounds(runs)
    assert len(figure.axes) == 4
    for axes, (_, report) in zip(figure.axes, runs, strict=True):
        sent, found = ([bar.get_height() for bar in bars] for bars in axes.containers)
        assert sent == [*(entry.pages for entry in report.rounds), report.last_pages]
        assert found == [entry.found for entry in report.rounds]


# --- the address space ------------------------------------------------------------------------------------------------


def cells(figure: object, panel: int) -> list[int]:
    return np.asarray(figure.axes[panel].images[0].get_array()).ravel().tolist()  # type: ignore[attr-defined]


def test_cells_are_what_most_of_their_bytes_are() -> None:
    s2 = Stage2()
    s2.map(0x4000_0000, 16 * 4096, pa=0x8000_0000, prot=Prot.RW)
    s2.map(0x4000_0000 + 16 * 4096, 16 * 4096, pa=0x9000_0000, prot=Prot.R)
    s2.map(0x4020_0000, "2MiB", pa=0xA000_0000)
    dirty = np.array([0x4000_0000, 0x4000_0000 + 20 * 4096], dtype=np.uint64)
    figure = plots.address_space(s2, size=64 * 4096, dirty=dirty)
    assert cells(figure, 0) == [1] * 32 + [0] * 32  # unmapped, 4 KiB, 2 MiB
    assert cells(figure, 1) == [3, *[2] * 15, *[1] * 4, 3, *[1] * 11, *[0] * 32]
    whole = plots.address_space(s2)
    assert set(cells(whole, 0)) == {0, 1, 2}
    assert cells(whole, 0).count(2) == 512  # 4 KiB a cell, or the picture would have more than 2048
    assert cells(plots.address_space(s2.image()), 0) == cells(whole, 0)


def test_nothing_to_draw_is_an_error() -> None:
    with pytest.raises(OptionError, match="maps nothing"):
        plots.address_space(Stage2())
    for draw in (plots.latencies, plots.rounds, plots.migrations):
        with pytest.raises(OptionError, match="no runs"):
            draw([])
    with pytest.raises(OptionError, match="no times"):
        plots.times()


# --- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["svg", "png"])
def test_the_same_runs_give_the_same_file(kind: str, runs: list[tuple[Migrate, MigrateReport]], tmp_path: Path) -> None:
    for name in ("a", "b"):
        plots.save(plots.migrations(runs[2:]), tmp_path / f"{name}.{kind}")
    first = (tmp_path / f"a.{kind}").read_bytes()
    assert first == (tmp_path / f"b.{kind}").read_bytes()
    if kind == "png":
        assert first.startswith(b"\x89PNG")
    else:
        assert ElementTree.fromstring(first).tag.endswith("svg")
        assert b"ring log, lockless" in first


class Page(HTMLParser):
    """Collects ids, and what a browser would fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.fetched: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "link", "img", "iframe", "object"):
            self.fetched.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value or "")
            elif name in ("src", "srcset") or (name.endswith("href") and not (value or "").startswith("#")):
                self.fetched.append(f"{name}={value}")


def test_a_page_stands_alone(runs: list[tuple[Migrate, MigrateReport]]) -> None:
    text = migrations_page(runs)
    page = Page()
    page.feed(text)
    assert page.fetched == []
    assert "@import" not in text
    assert len(page.ids) == len(set(page.ids)) > 10
    used = re.findall(r'(?:url\(|href=")#([^)"]+)', text)
    assert used
    assert set(used) <= set(page.ids)
    assert plots.INK in text  # once, where the page says what its ink is
    assert text.count(plots.INK) == 1
    assert "prefers-color-scheme: dark" in text
    for shown in (s2pt.__version__, np.__version__, sys.version.split()[0], f"{runs[0][1].pages_sent:,}", "2MiB"):
        assert f">{shown}" in text


def test_what_a_page_shows_is_escaped(runs: list[tuple[Migrate, MigrateReport]]) -> None:
    from s2pt.lab.page import page

    text = page("<b>", "$x & <i>", options={"<u>": "<s>"}, tables=[("<q>", ["<p>"], [["<a>"]])], figures=[])
    assert not re.search(r"<[buisqa]>", text)
    assert "$x &amp; &lt;i&gt;" in text


# --- the command ------------------------------------------------------------------------------------------------------


def test_the_command_draws_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    svg, html, png = (tmp_path / name for name in ("m.svg", "m.html", "d.png"))
    assert run(["migrate", *FAST, "--plot", str(svg), "--html", str(html)]) == 0
    assert run(["dirty-log", "-b", "2MiB", "--plot", str(png), "--html", str(tmp_path / "d.html")]) == 0
    assert ElementTree.fromstring(svg.read_bytes()).tag.endswith("svg")
    assert png.read_bytes().startswith(b"\x89PNG")
    assert html.read_text().count("<svg") == 2
    assert "dirty 2" in (tmp_path / "d.html").read_text()
    assert run(["predict", "-v", "1,2", "--draws", "2", "--policy", "lockless", "--plot", str(tmp_path / "p.svg")]) == 0
    assert "Populate memory" in (tmp_path / "p.svg").read_text()
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("command", "shown"),
    [
        ("access-tracking -b 2MiB -v 1,2", ["Mark it idle", "mark idle 2", "<dt>hardware_af</dt><dd>no</dd>"]),
        ("page-table -b 2MiB -s thp", ["Make them again", ">blocks<", "<dt>bytes_per_vcpu</dt><dd>2MiB</dd>"]),
        ("demand-paging -b 1MiB -u minor", ["Get all pages", ">wrong pages<", "<dt>supply</dt><dd>minor</dd>"]),
        ("memslot -b 2MiB -n 2 -t map,rw", ["An iteration of rw", ">taken back<", "Seconds, all iterations"]),
    ],
)
def test_the_neighbours_draw_and_write(
    command: str, shown: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    svg, html = tmp_path / "n.svg", tmp_path / "n.html"
    assert run([*command.split(), "--policy", "serial,lockless", "--plot", str(svg), "--html", str(html)]) == 0
    assert shown[0] in svg.read_text()
    text = html.read_text()
    assert text.count("<svg") == 1
    assert all(part in text for part in shown)
    assert f"<title>s2pt {command.split()[0]}</title>" in text
    assert "under serial, lockless." in text
    assert run([command.split()[0], "--plot", str(tmp_path / "n.pdf")]) == 2
    out, err = capsys.readouterr()
    assert "ends in .svg or .png" in err
    assert "Guest memory: " in out


@pytest.mark.parametrize("command", ["migrate", "dirty-log", "predict"])
def test_a_wrong_file_is_refused_before_anything_runs(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, match in [("x.pdf", "ends in .svg or .png"), ("no/x.svg", "folder that does not exist"), ("x", ".svg")]:
        assert run([command, "--plot", str(tmp_path / name)]) == 2
        said = capsys.readouterr()
        assert match in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_the_command_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.delitem(sys.modules, "s2pt.lab.plots")
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    assert run(["migrate", "--html", str(tmp_path / "x.html")]) == 2
    said = capsys.readouterr()
    assert said.err == "s2pt: error: --html needs matplotlib; install it with: pip install 's2pt[lab]'\n"
    assert said.out == ""


def test_inspect_draws_a_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = ROOT / "tests" / "data" / "kvm-traces" / "thpon_2vcpu.end.bin.xz"
    assert run(["inspect", str(dump), "--plot", str(tmp_path / "t.svg")]) == 0
    drawn = (tmp_path / "t.svg").read_text()
    assert "2MiB, level 2" in drawn
    assert "level 3" not in drawn  # 52 blocks, no page
    assert "VTCR_EL2" in capsys.readouterr().out


# --- sweeps -----------------------------------------------------------------------------------------------------------

SWEPT = [Migrate(**QUICK, policy=policy, seed=seed) for policy in ("serial", "lockless") for seed in (1, 2)]


def judge(reports: list[MigrateReport]) -> None:
    """Order shows in the lock: only that of the serial runs was held."""
    assert [(report.lost_bytes, report.longest_hold_ns > 0) for report in reports] == [(0, True)] * 2 + [(0, False)] * 2


@pytest.mark.parametrize("kind", ["here", "threads", "processes"])
def test_a_sweep_runs_anywhere_in_order(kind: str) -> None:
    if kind == "here":
        judge(sweep(SWEPT))
        return
    spawn = get_context("spawn")
    executor: Executor = ThreadPoolExecutor(2) if kind == "threads" else ProcessPoolExecutor(1, mp_context=spawn)
    with executor:
        judge(sweep(iter(SWEPT), executor))


def test_a_sweep_runs_on_a_dask_cluster() -> None:
    from dask.distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, processes=True, dashboard_address=None) as cluster,
        Client(cluster) as client,
        client.get_executor() as executor,
    ):
        judge(sweep(SWEPT, executor))


def test_a_wrong_run_ends_a_sweep() -> None:
    with ThreadPoolExecutor(1) as threads, pytest.raises(OptionError, match="write percent"):
        sweep([SWEPT[0], Migrate(**QUICK, write_percent=101)], threads)


def test_the_example_draws(tmp_path: Path) -> None:
    script = [sys.executable, ROOT / "examples" / "sweep_policies.py", tmp_path / "s.svg", "--memory", "2MiB"]
    done = subprocess.run([*map(str, script), "--bandwidth", "512MiB"], capture_output=True, text=True, check=True)
    assert done.stdout.count("downtime") == 9
    assert "ring log, lockless" in (tmp_path / "s.svg").read_text()


def test_the_example_of_dirty_memory_draws(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "examples" / "draw_dirty_memory.py"), str(tmp_path / "s.svg")]
    subprocess.run(script, check=True)
    drawn = (tmp_path / "s.svg").read_text()
    assert all(name in drawn for name in ("2MiB, level 2", "4KiB, level 3", "unmapped", "read-only", "dirty"))
    assert "writable" not in drawn  # the harvest protected it all, and a legend has what there is


def test_times_are_named_with_their_units() -> None:
    rows = [
        Prediction("dirty", Policy.SERIAL, n, n, seconds, seconds, seconds) for n, seconds in ((1, 2e-4), (64, 3.0))
    ]
    (axes,) = plots.times(predictions=rows).axes
    axes.figure.draw_without_rendering()
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert {"1 ms", "10 ms", "100 ms", "1 s"} <= set(names)
    close = [
        Prediction("dirty", Policy.SERIAL, n, n, seconds, seconds, seconds) for n, seconds in ((1, 0.11), (2, 0.4))
    ]
    (axes,) = plots.times(predictions=close).axes
    axes.figure.draw_without_rendering()
    assert {"200 ms"} <= {label.get_text() for label in axes.get_yticklabels()}
    for low, high in [(0.0102, 0.0117), (0.0054, 0.0191), (0.0021, 0.0049), (0.006, 0.09)]:
        near = [Prediction("dirty", Policy.SERIAL, n, n, at, at, at) for n, at in ((1, low), (2, high))]
        (axes,) = plots.times(predictions=near).axes
        least, most = axes.get_ylim()
        assert 2 <= sum(least <= at <= most for at in axes.yaxis.get_majorticklocs()) <= 8, (low, high)


def test_long_tables_are_folded_up(runs: list[tuple[Migrate, MigrateReport]]) -> None:
    assert "<details>" not in migrations_page(runs)
    assert "<details><summary>60 rows</summary>" in migrations_page(runs[:1] * 30)  # two rounds each


def test_a_sweep_takes_whatever_runs() -> None:
    replay = Replay(read(ROOT / "tests" / "data" / "kvm-traces" / "thpon_2vcpu"))
    tracking = AccessTracking(vcpus=1, bytes_per_vcpu="2MiB")
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as executor:
        replayed, tracked = sweep([replay, tracking], executor)
    assert (replayed.complete, replayed.unexplained) == (True, 0)
    assert tracked.complete
    with pytest.raises(TypeError, match="each of options must be something to run, not type"):
        sweep([Migrate])  # type: ignore[list-item]


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_picture_and_a_page_are_two_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other").symlink_to(tmp_path)
    both = ["--plot", str(tmp_path / "a.svg"), "--html", str(tmp_path / "other" / "a.svg")]
    for command in ("dirty-log", "memslot", "migrate"):
        assert run([command, *both]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert "--plot and --html name the same file" in err


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file that is always full")
def test_a_full_disk_is_told_with_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["page-table", "-b", "2MiB", "-s", "thp", "--policy", "serial", "--html", "/dev/full"]) == 2
    assert capsys.readouterr().err == "s2pt: error: [Errno 28] No space left on device: '/dev/full'\n"


def test_options_that_nobody_gave_are_not_on_the_page(tmp_path: Path) -> None:
    page = tmp_path / "a.html"
    memory = ["-b", "2MiB", "-s", "pages", "-x", "2"]
    assert run(["memslot", "-t", "map", "-l", "1ms", *memory, "--policy", "serial", "--html", str(page)]) == 0
    assert "None" not in page.read_text()
