"""Recorded runs with bytes changed: each is read, or refused by name. The same body runs coverage-guided in `fuzz/`."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from trace_target import one_input, seeds


@pytest.mark.parametrize("data", seeds())
def test_first_inputs(data: bytes, tmp_path: Path) -> None:
    one_input(data, tmp_path)


def test_nothing_changed_is_accepted(tmp_path: Path) -> None:
    assert one_input(b"", tmp_path)


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_changed_run_is_read_or_refused(data: bytes) -> None:
    with TemporaryDirectory() as folder:
        one_input(data, Path(folder))
