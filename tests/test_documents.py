"""What README.md and docs/ show is what happens; so are the examples in the docstrings."""

from __future__ import annotations

import doctest
import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import s2pt

ROOT = Path(__file__).resolve().parent.parent
SESSION = re.compile(r"^```pycon\n(.*?)^```$", re.MULTILINE | re.DOTALL)
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE

DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
WITH_SESSIONS = [path for path in DOCUMENTS if SESSION.search(path.read_text())]
# `__main__` modules run something when they are imported.
MODULES = ["s2pt"] + [
    module.name
    for module in pkgutil.walk_packages(s2pt.__path__, "s2pt.")
    if not module.name.endswith((".__main__", "._core"))
]


def run(test: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=OPTIONS, verbose=False)
    result = runner.run(test, out=said.append, clear_globs=False)
    assert result.failed == 0, "".join(said)


@pytest.mark.parametrize("path", WITH_SESSIONS, ids=lambda path: path.name)
def test_sessions_in_documents(path: Path) -> None:
    text = path.read_text()
    # Blank out what stands around the sessions, so that a failure names the line of the document.
    session = re.sub(r"[^\n]", "", text)
    lines, shown = text.split("\n"), session.split("\n")
    for match in SESSION.finditer(text):
        first, last = text.count("\n", 0, match.start(1)), text.count("\n", 0, match.end(1))
        shown[first:last] = lines[first:last]
    test = doctest.DocTestParser().get_doctest("\n".join(shown), {}, path.name, str(path), 0)
    assert test.examples
    run(test)


def test_readme_has_a_session() -> None:
    assert ROOT / "README.md" in WITH_SESSIONS


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    for test in doctest.DocTestFinder(exclude_empty=True).find(module):
        run(test)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
    missing = [target for target in targets if "://" not in target and not (path.parent / target).exists()]
    assert not missing
