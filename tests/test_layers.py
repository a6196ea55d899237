"""The sources keep to the layers of docs/design.md: who imports whom, and where some things may stand at all."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SRC = ROOT / "src"
TABLE = (ROOT / "docs" / "design.md").read_text().partition("## Layers")[2].partition("## One entry")[0]
LAYERS = re.findall(r"^\| `(\w+)` \| ", TABLE, re.MULTILINE)
# Seeded faults are switched on in any of them.
FAULTS = "faults"
FILES = [path for path in sorted(SRC.glob("**/*.rs")) if not {"tests", "loom_tests"} & {path.stem, *path.parts}]


def code(path: Path) -> str:
    """Give the text of a source file without its comments."""
    return "\n".join(line for line in path.read_text().split("\n") if not line.lstrip().startswith("//"))


def layer_of(path: Path) -> str:
    return path.relative_to(SRC).parts[0].removesuffix(".rs")


def imports(layer: str) -> set[str]:
    """Give the parts of the crate that a layer names."""
    files = [path for path in FILES if layer_of(path) == layer]
    assert files
    return {name for file in files for name in re.findall(r"\bcrate::(\w+|\{)", code(file))}


def found_in(pattern: str) -> set[str]:
    """Give the source files, as in `table/entry.rs`, in which the pattern occurs."""
    return {path.relative_to(SRC).as_posix() for path in FILES if re.search(pattern, code(path))}


def test_every_folder_is_a_layer() -> None:
    assert {layer_of(path) for path in FILES} - {"lib", FAULTS} == set(LAYERS)


@pytest.mark.parametrize("layer", LAYERS)
def test_a_layer_imports_only_those_above_it(layer: str) -> None:
    assert imports(layer) <= {*LAYERS[: LAYERS.index(layer) + 1], FAULTS}


def test_the_architecture_knows_nothing() -> None:
    assert imports("arch") <= {"arch", FAULTS}


def test_images_are_no_live_tables() -> None:
    assert imports("image") <= {"image", "arch", FAULTS}


def test_python_is_in_one_folder() -> None:
    assert {name.partition("/")[0] for name in found_in(r"\b(pyo3|numpy)::")} == {"python"}


def test_atomics_have_one_name() -> None:
    assert {name.partition("/")[0] for name in found_in(r"\b(std|core)::sync::atomic\b")} <= {"sync.rs", "sync"}


def test_unsafe_stands_where_it_is_argued() -> None:
    places = found_in(r"\bunsafe\b")
    assert "table/reclaim.rs" in places
    assert all(name.startswith(("memory/", "table/reclaim")) for name in places)
