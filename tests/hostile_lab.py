"""Hostile calls on recordings and on the lab: right values, nearly right ones, and objects to call."""

from __future__ import annotations

import functools
import math
import random
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure

import s2pt
from s2pt import recording
from s2pt.events import Event
from s2pt.lab import calibrate, costs
from s2pt.lab.letter import figures
from s2pt.lab.predict import Prediction, predict
from s2pt.types import Backing, Policy
from s2pt.vm import DirtyLogReport, Step

Pick = Callable[[random.Random], Any]
PAGE = 4096
# What is written is written here.
FOLDER = Path(tempfile.mkdtemp(prefix="s2pt-hostile-"))


def _one_of(*values: Any) -> Pick:
    return lambda rng: rng.choice(values)


def _made(*makers: Callable[[], Any]) -> Pick:
    return lambda rng: rng.choice(makers)()


# ------------------------------------------------------------------------------------------------- recordings


@functools.cache
def recorded(semantics: str = "exact", granule: int = PAGE) -> recording.Recording:
    """Record a few calls; the same each time."""
    s2 = s2pt.Stage2(39, granule, frames=24, sink="recording", semantics=semantics)
    s2.map(0, 8 << 20, pa=1 << 30)
    s2.unmap(granule, granule)
    s2.write_protect(0, 2 << 20)
    s2.drain()
    return s2.trace()


def _setup(**changes: Any) -> recording.Setup:
    setup = recorded().setup
    fields = {name: getattr(setup, name) for name in setup.__dataclass_fields__}
    return recording.Setup(**{**fields, **changes})


def _odd_events(rng: random.Random) -> Any:
    """Make steps of which one is as no step is."""
    events = list(recorded().events)
    at = rng.randrange(len(events))
    old = events[at]
    fields = dict(old.fields)
    wrong: Any = rng.choice((None, "x", -1, 1 << 64, 1.5, [], True, 1 << 40, 7))
    if fields and rng.randrange(4):
        name = rng.choice(sorted(fields))
        if rng.randrange(3):
            fields[name] = wrong
        else:
            del fields[name]
        events[at] = Event(old.sequence, old.thread, old.kind, fields)
    else:
        parts = [old.sequence, old.thread, old.kind, old.fields]
        parts[rng.randrange(4)] = wrong
        events[at] = Event(*parts)
    return events


def _events(rng: random.Random) -> Any:
    events = recorded().events
    return rng.choice((events, list(events), events[: rng.randrange(len(events))], (), _odd_events(rng)))


def _snapshot(rng: random.Random) -> Any:
    words = np.zeros(512, np.uint64)
    odd: Any = rng.choice((None, (1, 0), (1, 0, words[:7]), (9, 0, words), (3, "0", words), (2, 0, words.tolist())))
    made = (lambda: recorded().check().end, recording.Snapshot, lambda: recording.Snapshot({PAGE: odd}, {}),
            lambda: recording.Snapshot({}, {"a": odd}))  # fmt: skip
    return rng.choice(made)() if rng.randrange(3) else None


def _saved(rng: random.Random) -> Any:
    """Give the name of a file: right, cut off, changed, or of something else."""
    kind = rng.randrange(4)
    if kind == 0:
        return str(FOLDER / "no such file")
    path = FOLDER / f"saved-{kind}.jsonl"
    recorded().save(path)
    if kind == 2:
        path.write_bytes(path.read_bytes()[: rng.randrange(600)])
    elif kind == 3:
        data = bytearray(path.read_bytes())
        data[rng.randrange(len(data))] = rng.randrange(256)
        path.write_bytes(data)
    return path


def _recording(rng: random.Random) -> recording.Recording:
    return recording.Recording(recorded().setup, _odd_events(rng) if rng.randrange(2) else recorded().events)


def _broken() -> recording.Report:
    return recorded().without(lambda event: event.kind.startswith("tlbi")).check()


# ------------------------------------------------------------------------------------------------- the lab


@functools.cache
def _migrate() -> Any:
    return s2pt.Migrate(memory="2MiB", vcpus=1, warm_up_s=0, rounds=1, bandwidth=None)


@functools.cache
def _migrated() -> Any:
    return _migrate().run()


def _dirty_report(vcpus: int = 2, phases: tuple[str, ...] = ("populate", "dirty 1"), time: int = 1000) -> Any:
    rows = tuple(Step(name, time, {"permission": 3}, {}, {}, None, None, 1) for name in phases)
    return DirtyLogReport(vcpus, 10, rows, 0, 0, {})


def _dirty_runs(rng: random.Random) -> Any:
    right = [("serial", _dirty_report()), (Policy.LOCKLESS, _dirty_report(4))]
    wrong = [("serial", _dirty_report(phases=("populate",)))], [("no policy", _dirty_report())], [(1,)], [("serial", 3)]
    return rng.choice((right, right, right[:1], iter(right), [("serial", _dirty_report(time=0))], [], *wrong))


def _migrations(rng: random.Random) -> Any:
    run = (_migrate(), _migrated())
    return rng.choice(([run], [run, run], [], [run[0]], [(run[1], run[0])], [(1, 2, 3)], run))


def _costs() -> costs.Costs:
    return costs.Costs(300, 500, line_ns=60, fill_ns=50_000, clean_ns=40_000, bandwidth_gbs=130, start_s=0.1)


def _calibration() -> calibrate.Calibration:
    return calibrate.Calibration("here", _costs(), costs.Machine(2), "exact", ("line_ns",), ((0.01,),), 0.1)


def _documents(rng: random.Random) -> Any:
    """Make what `s2pt dirty-log --json` and `s2pt bench --json` print, whole or with one thing wrong."""
    phase = {"phase": "populate", "elapsed_ns": 5000, "faults": {"translation": 4}}
    dirty = {"phase": "dirty 2", "elapsed_ns": 9000, "faults": {"permission": 8}}
    run = {"vcpus": 1, "accesses": 100, "phases": [phase, dirty]}
    options = {"write_percent": 100, "backing": "thp", "stall_tlbi_ns": rng.choice((None, 0, 1000))}
    log = {"command": "dirty-log", "options": options, "runs": [run]}
    row = {"id": calibrate.INSIDE_ROW, "median_ns": 12.5}
    bench = {"command": "bench", "rows": [row]}
    if rng.randrange(2):
        part: Any = rng.choice((phase, dirty, run, options, log, row, bench))
        name = rng.choice(sorted(part))
        if rng.randrange(3):
            part[name] = rng.choice((None, "x", -1, 0, 1.5, [], {}, [1], {"a": None}, float("nan"), True, 10**400))
        else:
            del part[name]
    return rng.choice(([log], [log, bench], (bench,), [log, log], []))


def _tables(rng: random.Random) -> Any:
    right = [("Runs", ["policy", "ms"], [["serial", "1"], ["lockless", 2]])]
    return rng.choice((right, right, [], iter(right), [("Runs", ["a"], [[1, 2]])], [("Runs", ["a"], 3)], [1], [("a",)]))


def _figure() -> Figure:
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([1, 2])
    return figure


def _prediction() -> Prediction:
    return Prediction("dirty", Policy.SERIAL, 2, 3, 1.0, 0.5, 2.0)


@functools.cache
def _predicted() -> Any:
    return predict(_calibration(), vcpus=[1], memory="2MiB", policies=["serial"], passes=["dirty"], draws=2)


_number = _one_of(0, 1, 2.5, 300, -1, float("nan"), math.inf)

PARAMETERS: dict[str, Pick] = {
    # Recordings.
    "setup": _made(lambda: recorded().setup, lambda: recorded("kvm").setup, lambda: recorded(granule=16384).setup),
    "dropped": _one_of(0, 0, 0, 3, -1), "later": _recording, "start": _snapshot, "drop": _one_of(
    lambda event: event.kind == "dsb", lambda event: True, lambda: None),
    "outputs": _one_of(None, lambda ipa: ipa + (1 << 30), lambda ipa: {0, ipa}, lambda ipa: "x", lambda ipa: None),
    "local": _one_of("refuse", "leave-out"),
    "geometry": _made(lambda: recorded().setup.geometry), "exclusive": _one_of(True, False),
    "source": _one_of("s2pt", "casemate", "here"), "told": lambda rng: _told(rng),
    "invariant": _one_of("I1", "I2"), "sequences": _one_of((), (1, 2)), "entry": _one_of(None, 0, PAGE),
    "title": _one_of("a", "<b>", ""), "checked": _one_of(0, 3), "invariants": _one_of(()), "moved": _one_of(0, 1),
    "owed": _one_of(0, 1), "end": _made(recording.Snapshot), "linked": _one_of({}),
    # The lab.
    "options": _made(dict, lambda: {"a": 1}, lambda: {1: None}), "executor": _one_of(None, None, 3),
    "costs": _made(_costs), "machine": _made(lambda: costs.Machine(2), lambda: costs.Machine(4, "sleep")),
    "splits": _one_of("lazy", "exact", None), "names": _one_of((), ("line_ns",), ("no such",)),
    "covariance": _one_of((), ((0.01,),), ((1, 2),), ((float("nan"),),)), "model_error": _one_of(0.1, 0, -1),
    "documents": _documents, "cores": _one_of(None, 1, 2, 80),
    "host_line": _one_of(True, False), **dict.fromkeys((
        "outside_ns", "inside_ns", "line_ns", "fill_ns", "clean_ns", "bandwidth_gbs", "start_s", "tlbi_ns",
        "tlbi_core_ns", "split_ns", "stall_ns"), _number),
    "pass_": _one_of("populate", "dirty", "x"), "calibration": _made(_calibration), "policies": lambda rng: rng.choice(
    (["lockless"], ["serial"], iter(()), ["x"])), "passes": _one_of(["dirty"], ("populate",), ["x"], ()),
    "draws": _one_of(2, 2, 1), "host_lock": _one_of(None, True, False), "summary": _one_of("", "a & b"),
    "figures": lambda rng: rng.choice(([("a", _figure())], [], [_figure()], [(1, _figure())])),
    "figure": _made(_figure), "predictions": _made(list, lambda: [_prediction()], lambda: list(_predicted())),
    "dirty": _one_of(None, np.array([PAGE, 0], np.uint64), np.array([1 << 60], np.uint64), np.zeros(2)),
    "seconds": _number, "low": _number, "high": _number,
}  # fmt: skip


def _told(rng: random.Random) -> Any:
    told = recorded().setup.to_json()
    if rng.randrange(2):
        told[rng.choice(sorted(told))] = rng.choice((None, "x", -1, 1 << 64, 1.5, [], True))
    return told


_RUNS = {f"s2pt.lab.plots.{name}(runs)": _migrations for name in ("latencies", "migrations", "rounds")}
# Where a name means something else.
BY_TARGET: dict[str, Pick] = {
    "s2pt.recording.recording.Recording(events)": _events, "s2pt.recording.recording.load(path)": _saved,
    "s2pt.recording.recording.Recording.save(path)": _one_of(
        FOLDER / "one.jsonl", str(FOLDER / "two.xz"), FOLDER / "no" / "such"),
    "s2pt.recording.report.Report.__getitem__(name)": _one_of("I1", "R11", "no such"),
    "s2pt.lab.sweeps.sweep(options)": lambda rng: rng.choice(([], [], [_migrate()], [1], [_migrate(), None])),
    "s2pt.lab.predict.predict(vcpus)": _one_of([1], [1, 1], (1,), np.array([1]), [], [0], [1 << 40], ["1"]),
    "s2pt.lab.predict.predict(memory)": _one_of("2MiB", 4 << 20, "3KiB"),
    "s2pt.lab.predict.predict(backing)": _one_of(Backing.THP, "pages"),
    "s2pt.lab.page.page(tables)": _tables, "s2pt.lab.costs.Machine(waits)": _one_of("spin", "sleep", 1),
    "s2pt.lab.costs.Workload(memory)": _one_of(2 << 20, 4 << 20, 1), **_RUNS,
    "s2pt.lab.plots.times(runs)": _dirty_runs, "s2pt.lab.page.dirty_log_page(runs)": _dirty_runs,
    "s2pt.lab.page.migrations_page(runs)": _migrations,
    "s2pt.lab.plots.picture_format(path)": _one_of("a.svg", "b.PNG", Path("c.pdf"), ""),
    "s2pt.lab.plots.save(path)": _one_of(FOLDER / "a.svg", str(FOLDER / "b.png"), FOLDER / "no" / "c.svg", "d.pdf"),
    "s2pt.lab.space.address_space(ipa)": _one_of(None, 0, PAGE, 1 << 52, 7),
    "s2pt.lab.space.address_space(size)": _one_of(None, PAGE, 1 << 30, 1 << 53, 0),
}  # fmt: skip

RECEIVERS: dict[str, tuple[Callable[[], Any], ...]] = {
    "s2pt.recording.recording.Recording": (
        recorded, lambda: recorded("kvm"), lambda: recorded(granule=16384),
        lambda: recording.Recording(recorded().setup, (), 2),
        *(lambda seed=seed: _recording(random.Random(seed)) for seed in range(40)),
    ),
    "s2pt.recording.report.Report": (lambda: recorded().check(), _broken),
    "s2pt.recording.report.Invariant": (lambda: recorded().check()["I2"],),
    "s2pt.recording.report.Violation": (lambda: _broken().violations[0],),
    "s2pt.recording.setup.Setup": (lambda: recorded().setup, lambda: _setup(xnx=True)),
    "s2pt.recording.tables.Snapshot": (lambda: recorded().check().end, recording.Snapshot),
    "s2pt.lab.calibrate.Calibration": (_calibration, calibrate.cover_letter),
    "s2pt.lab.costs.Costs": (_costs,),
    "s2pt.lab.costs.Machine": (lambda: costs.Machine(2),),
    "s2pt.lab.costs.Workload": (lambda: costs.Workload(2 << 20),),
    "s2pt.lab.predict.Prediction": (_prediction,),
    "s2pt.lab.letter.Figure": (lambda: figures()[0],),
}  # fmt: skip
