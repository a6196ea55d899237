"""What recordings and the lab are given wrong is refused where it is given, by a typed error."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from s2pt import RecordingError, Stage2
from s2pt.errors import OptionError
from s2pt.events import Event
from s2pt.lab import sweep
from s2pt.lab.calibrate import INSIDE_ROW, Calibration, cover_letter, from_runs
from s2pt.lab.costs import Costs, Machine, Workload
from s2pt.lab.page import dirty_log_page, migrations_page, page
from s2pt.lab.plots import address_space, latencies, save, times
from s2pt.lab.predict import predict
from s2pt.recording import Recording, Setup, Snapshot
from s2pt.vm import DirtyLogReport


def recorded() -> Recording:
    s2 = Stage2(39, sink="recording")
    s2.map(0, "2MiB", pa=0)
    s2.unmap(0, 4096)
    return s2.trace()


def document() -> dict:
    populate = {"phase": "populate", "elapsed_ns": 5000, "faults": {"translation": 4}}
    dirty = {"phase": "dirty 2", "elapsed_ns": 9000, "faults": {"permission": 8}}
    run = {"vcpus": 1, "accesses": 100, "phases": [populate, dirty]}
    return {"command": "dirty-log", "options": {"write_percent": 100, "backing": "thp"}, "runs": [run]}


def times_nothing() -> DirtyLogReport:
    return DirtyLogReport(1, 1, (), 0, 0, {})


WRONG_TYPES = {
    "a recording of nothing": lambda: Recording(recorded().setup, [1]),
    "a number of dropped steps": lambda: Recording(recorded().setup, (), "0"),
    "two recordings": lambda: recorded() + 1,
    "a snapshot": lambda: recorded().check(start={}),
    "outputs": lambda: recorded().check(outputs=7),
    "local": lambda: recorded().casemate(local=1),
    "a geometry": lambda: Setup(None, 0),
    "a flag": lambda: Setup(recorded().setup.geometry, 0, fwb=1),
    "options of a sweep": lambda: sweep([None]),
    "an executor": lambda: sweep([], 3),
    "a cost": lambda: Costs("1", 1, 1, 1, 1, 1, 1),
    "cores": lambda: Machine(1.5),
    "a calibration": lambda: predict(None, vcpus=[1], memory="2MiB"),
    "vCPUs": lambda: predict(cover_letter(), vcpus=1, memory="2MiB"),
    "costs": lambda: Calibration("", 1, Machine(1), "lazy", (), (), 0.1),
    "documents": lambda: from_runs(7),
    "a title": lambda: page(1, "", options={}, tables=[], figures=[]),
    "a table": lambda: page("", "", options={}, tables=[1], figures=[]),
    "a picture": lambda: page("", "", options={}, tables=[], figures=[("a", 1)]),
    "runs": lambda: dirty_log_page([("serial", 1)], {}),
    "migrations": lambda: migrations_page([(1, 2)]),
    "latencies": lambda: latencies([1]),
    "a figure": lambda: save(1, "a.svg"),
    "an address": lambda: address_space(Stage2(), ipa=0.5, size=4096),
    "dirty pages": lambda: address_space(Stage2(), ipa=0, size=4096, dirty=[0]),
}

OUT_OF_RANGE = {
    "a root": lambda: Setup(recorded().setup.geometry, -1),
    "a cost": lambda: Costs(1, 1, 1, 1, 1, 1, math.nan),
    "no bandwidth": lambda: Costs(1, 1, 1, 1, 1, 0, 1),
    "cores": lambda: Machine(1 << 40),
    "a pass": lambda: Workload(2 << 20).faults("neither"),
    "many vCPUs": lambda: predict(cover_letter(), vcpus=[1 << 40], memory="2MiB"),
    "many draws": lambda: predict(cover_letter(), vcpus=[1], memory="2MiB", draws=10**9),
    "a seed": lambda: predict(cover_letter(), vcpus=[1], memory="2MiB", seed=-1),
    "a cost that nobody knows": lambda: Calibration("", cover_letter().costs, Machine(1), "lazy", ("x",), ((1,),), 0.1),
    "a covariance": lambda: Calibration("", cover_letter().costs, Machine(1), "lazy", ("line_ns",), ((1, 2),), 0.1),
    "cells": lambda: page("", "", options={}, tables=[("", ["a"], [[1, 2]])], figures=[]),
    "no runs": lambda: migrations_page([]),
    "no times": lambda: times([("serial", times_nothing())]),
    "an address": lambda: address_space(Stage2(), ipa=1 << 60, size=4096),
    "dirty pages": lambda: address_space(Stage2(), ipa=0, size=4096, dirty=np.array([1 << 60], np.uint64)),
}


@pytest.mark.parametrize("what", WRONG_TYPES)
def test_what_is_of_a_wrong_type(what):
    with pytest.raises(TypeError):
        WRONG_TYPES[what]()


@pytest.mark.parametrize("what", OUT_OF_RANGE)
def test_what_is_out_of_range(what):
    with pytest.raises(OptionError):
        OUT_OF_RANGE[what]()


@pytest.mark.parametrize("kind", ["store", "dsb", "allocate", "tlbi_ipa", "free", "nothing known"])
@pytest.mark.parametrize("fields", [{}, {"entry": "x"}, {"frame": -1}, {"ipa": 1 << 64}, None])
def test_a_step_that_nobody_took(kind, fields, tmp_path):
    recording = recorded()
    last = recording.events[-1].sequence
    broken = Recording(recording.setup, [*recording.events, Event(last + 1, 0, kind, fields)])
    for use in (broken.check, broken.casemate, lambda: broken.save(tmp_path / "saved")):
        with pytest.raises(RecordingError, match=f"step {last + 1}"):
            use()
    assert repr(broken)


@pytest.mark.parametrize("kept", [None, (1, 0), (7, 0, np.zeros(512, np.uint64)), (1, 0, np.zeros(7, np.uint64))])
def test_a_snapshot_of_something_else(kept):
    later = recorded()
    later = Recording(later.setup, [event for event in later.events if event.kind != "allocate"])
    with pytest.raises(RecordingError):
        later.check(start=Snapshot({0x1000: kept}, {}))


def test_dirty_pages_in_any_order():
    s2 = Stage2()
    s2.map(0, "64KiB", pa=0)
    one, other = (
        address_space(s2, dirty=np.array(pages, np.uint64)).axes[1].images[0].get_array()
        for pages in ([0, 4096, 0x5000], [0x5000, 0, 4096, 0])
    )
    assert np.array_equal(one, other)


def changed(value):
    """Give the value in every way wrong in one place."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in parts:
        for wrong in (None, "x", -1, [], {}, math.nan, [None], {"a": None}):
            yield {**value, key: wrong} if isinstance(value, dict) else [*value[:key], wrong, *value[key + 1 :]]
        for other in changed(inner):
            yield {**value, key: other} if isinstance(value, dict) else [*value[:key], other, *value[key + 1 :]]
    if isinstance(value, dict):
        yield from ({name: inner for name, inner in value.items() if name != key} for key in value)


def test_documents_that_are_wrong_in_one_place():
    """Each is read, or refused as an option; no KeyError of the reader's own."""
    row = {"id": INSIDE_ROW, "median_ns": 12.5}
    right = [document(), {"command": "bench", "rows": [row]}]
    assert from_runs(right, cores=2).costs.inside_ns == 12.5
    refused = read = 0
    for documents in changed(right):
        try:
            from_runs(documents, cores=2)
            read += 1
        except OptionError:
            refused += 1
    assert refused > 100, json.dumps([refused, read])
