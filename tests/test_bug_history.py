"""docs/bug-history.md against the tests that it names, and the traps that are about the build."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "bug-history.md"
ROW = re.compile(r"^\| ([BPT])(\d+) \|(.*)\|$", re.MULTILINE)
NAME = re.compile(r"`((?:test_)?[a-z]\w*_\w+)`")
RUST_TEST = re.compile(r"#\[test\]\n(?:#\[.*\]\n)*(?:pub )?fn (\w+)\(")
PYTHON_TEST = re.compile(r"^def (test_\w+)\(", re.MULTILINE)

ROWS = {letter + number: cells.split("|") for letter, number, cells in ROW.findall(PAGE.read_text())}
STEP = re.compile(r"\(step `(\w+)`\)")
CI = ROOT / ".ci" / "run"
CARGO = tomllib.loads((ROOT / "Cargo.toml").read_text())
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def names_in(*patterns: str) -> set[str]:
    """Names of the tests in the files that these patterns find."""
    names: set[str] = set()
    for path in (path for pattern in patterns for path in ROOT.glob(pattern)):
        search = RUST_TEST if path.suffix == ".rs" else PYTHON_TEST
        names.update(search.findall(path.read_text()))
    return names


ALL = names_in("tests/*.py", "tests/**/*.rs")
OWN = names_in("tests/bug_history/*.rs", "tests/test_bug_history.py")


def test_each_bug_has_its_row() -> None:
    for letter, last in (("B", 36), ("P", 13), ("T", 9)):
        assert [row for row in ROWS if row[0] == letter] == [f"{letter}{number}" for number in range(1, last + 1)]
    assert len({len(cells) for row, cells in ROWS.items() if row[0] == "B"}) == 1


@pytest.mark.parametrize("row", ROWS)
def test_a_row_names_tests_that_exist_or_says_why_there_is_none(row: str) -> None:
    cell = ROWS[row][-1]
    names = NAME.findall(STEP.sub("", cell))
    assert set(names) <= ALL
    number = f"{row[0].lower()}{int(row[1:]):02}_"
    own = [name for name in names if name.removeprefix("test_").startswith(number)]
    reason = re.search(r"(?i:cannot) \w+.{20}", cell)
    elsewhere = re.match(r" as (B\d+) $", cell)
    assert own or reason or names or (elsewhere and elsewhere[1] in ROWS)
    # A bug of KVM is held by a test of its own name, or cannot occur.
    assert own or reason or row[0] != "B"


@pytest.mark.skipif(not CI.exists(), reason="a source distribution does not carry the checks of CI")
def test_each_step_of_ci_that_is_named_exists() -> None:
    named = STEP.findall(PAGE.read_text())
    assert named
    assert set(named) <= set(re.findall(r"^step_(\w+)\(\)", CI.read_text(), re.MULTILINE))


def test_each_named_test_has_its_row() -> None:
    named = set(NAME.findall(PAGE.read_text()))
    assert {name for name in OWN if re.match(r"(test_)?[bpt]\d\d_", name)} <= named


def test_t01_the_crate_lists_no_crate_type_and_maturin_knows_its_bindings() -> None:
    assert "crate-type" not in CARGO["lib"]
    assert PYPROJECT["tool"]["maturin"]["bindings"] == "pyo3"
    assert "python" not in CARGO["features"]["default"]


def test_t08_wheels_are_built_for_one_version_of_python() -> None:
    features = [CARGO["dependencies"]["pyo3"].get("features", []), PYPROJECT["tool"]["maturin"]["features"]]
    assert not [name for names in features for name in names if "abi3" in name]


def test_t09_what_tests_need_is_an_extra() -> None:
    assert "dependency-groups" not in PYPROJECT
    extra = {re.match(r"[\w-]+", need)[0] for need in PYPROJECT["project"]["optional-dependencies"]["test"]}
    assert {"pytest", "hypothesis"} <= extra
