"""The report of the benchmarks: what it says of figures, and what it refuses."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHES = Path(__file__).resolve().parent.parent / "benches"


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> dict[str, ModuleType]:
    monkeypatch.syspath_prepend(str(BENCHES))
    return {name: importlib.import_module(f"reporting.{name}") for name in ("counts", "document", "peers", "text")}


def test_figures_say_what_matters(reporting: dict[str, ModuleType]) -> None:
    text = reporting["text"]
    assert [text.figure(value) for value in (None, 0.2236, 12.34, 20035.4)] == ["", "0.224", "12.3", "20,035"]
    assert [text.size(value) for value in (0.5, 4096, 3 << 30, 16 << 40)] == ["0.5 B", "4 KiB", "3 GiB", "16 TiB"]
    assert [text.verdict(9, 10), text.verdict(12, 10), text.verdict(12, None)] == ["kept", "**missed by 20 %**", ""]
    assert text.table(["a", "b>"], [["x", "1"]]) == ["| a | b |", "|---|--:|", "| x | 1 |"]


@pytest.mark.parametrize(("now", "grown"), [(100.0, 0), (114.0, 0), (116.0, 1), (None, 1)])
def test_a_count_may_grow_a_little(
    reporting: dict[str, ModuleType],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    now: float | None,
    grown: int,
) -> None:
    counts = reporting["counts"]
    recorded = tmp_path / "instructions.json"
    recorded.write_text(json.dumps({} if now is None else {"fault": 100.0}))
    monkeypatch.setattr(counts, "COUNTS", recorded)
    row = counts.Row("fault", "map a page", 1, None, 300.0, None, None)
    assert counts.check([row], {"fault": now or 1.0}) == grown
    assert ("grown by more than 15 %, or not recorded: fault" in capsys.readouterr().out) == bool(grown)


def peers() -> dict[str, object]:
    """Make the smallest document of the peers' program: ours and one other, shared and alone."""
    who = {"version": "1", "levels": 3, "format": "", "inner": None, "lock": None}
    limit = {"title": "a load", "unit": "ns", "min": 1.0, "median": 1.5}
    return {
        "contestants": [
            {**who, "id": "s2pt_exclusive", "title": "ours", "own": True, "access": "exclusive"},
            {**who, "id": "s2pt_shared", "title": "ours, shared", "own": True, "access": "shared"},
            {**who, "id": "other", "title": "other", "own": False, "access": "exclusive"},
            {**who, "id": "other_4l", "title": "other, 4 levels", "own": False, "access": "exclusive", "levels": 4},
            {**who, "id": "other+std", "title": "other, std", "own": False, "access": "shared", "lock": "std"},
        ],
        "rows": [
            {
                "id": "fault",
                "title": "map a page",
                "unit": "ns",
                "results": {
                    "s2pt_exclusive": {"min": 4.0, "median": 5.0, "how": None},
                    "s2pt_shared": {"min": 8.0, "median": 9.0, "how": None},
                    "other": {"min": 6.0, "median": 6.0, "how": "two calls"},
                    "other_4l": {"min": 1.0, "median": 1.0, "how": None},
                    "other+std": {"min": 7.0, "median": 7.0, "how": None},
                },
            },
            {"id": "split", "title": "split", "unit": "ns", "results": {"s2pt_exclusive": {"absent": "no"}}},
        ],
        "threads": [],
        "limits": {"load_l1": limit},
        "bounds": [
            {"row": "fault", "contestant": "s2pt_exclusive", "limit_ns": 2.0, "chain_ns": 2.5, "recipe": "2 load_l1"},
        ],
    }


def test_peers_are_compared_as_their_users_would_use_them(reporting: dict[str, ModuleType]) -> None:
    data = peers()
    lines = reporting["peers"].render(data)
    assert "| map a page | ns | 4 | 6 | other \\* | 1.50 x | 2 | 2.0 x | 2.5 | 2 load_l1 |" in lines
    assert "| map a page | ns | 8 | 7 | other, std | **0.88 x** |  |  |  |  |" in lines
    assert reporting["peers"].missed(data) == [("peers_shared_fault", "map a page, shared, beside other, std")]


def test_a_document_of_one_part(reporting: dict[str, ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    document = reporting["document"]
    monkeypatch.setattr(document, "machine", lambda: [("processor", "a fast one")])
    moment = {"date": "2026-01-01", "commit": "0123", "load": "0.10"}
    text = document.write({"peers": {"moment": moment, "data": peers()}})
    assert text.startswith("# Benchmarks\n")
    assert "## What was missed, and why\n\n- *map a page, shared, beside other, std*: " in text
    assert "| peers | 2026-01-01 | 0123 | 0.10 |" in text
    assert "## From Python" not in text


def test_report_refuses_figures_that_are_not_there(tmp_path: Path) -> None:
    command = [sys.executable, BENCHES / "report.py", "--only", "--from", tmp_path, "--out", tmp_path / "out.md"]
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "has no figures of budget, peers, threads, sizes, python: measure them" in done.stderr
    assert not (tmp_path / "out.md").exists()
