"""Every public call with hostile arguments: a right answer or a typed refusal, and nothing half done.

What there is to call is found by looking (`hostile_surface`), what it is called on and with is in
`hostile_receivers` and `hostile_values`, and what may come of it in `hostile_calls`. A long search:
`pytest -m campaign tests/test_hostile.py -s`.
"""

from __future__ import annotations

import faulthandler
import os
import pkgutil
import random
import sys
import threading

import hostile_calls
import hostile_receivers
import numpy as np
import pytest
from hostile_surface import EXEMPT, surface
from hostile_values import LoudInt, Own
from hypothesis import given, settings
from hypothesis import strategies as st

import s2pt
from s2pt import Stage2, _core

PAGE, MIB = 4096, 1 << 20
CALLS = int(os.environ.get("S2PT_HOSTILE_CALLS", "1000000"))

# `operator.index` warns of objects that give a bool, as it does everywhere.
pytestmark = pytest.mark.filterwarnings("ignore:__index__ returned non-int:DeprecationWarning")


@pytest.fixture(autouse=True)
def nothing_hangs():
    """End the process, with every thread's stack, if a test takes longer than it ever should."""
    faulthandler.dump_traceback_later(3600 if CALLS > 1_000_000 else 900, exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@pytest.fixture(autouse=True)
def nothing_is_left(tmp_path, monkeypatch):
    """Write files of hostile names into a folder that goes."""
    monkeypatch.chdir(tmp_path)


def test_everything_public_is_fuzzed():
    assert [f"not fuzzed: {name}" for name in hostile_receivers.unknown()] == []


def test_what_is_exempt_exists():
    """An exemption for what is gone would hide its successor."""
    for name in EXEMPT:
        assert callable(pkgutil.resolve_name(name)), name


def test_a_new_callable_is_noticed(monkeypatch):
    def brand_new(no_such_parameter):
        """Stand for what somebody adds."""

    monkeypatch.setattr(s2pt, "brand_new", brand_new, raising=False)
    monkeypatch.setattr(s2pt, "__all__", [*s2pt.__all__, "brand_new", "BrandNew"])
    monkeypatch.setattr(
        s2pt, "BrandNew", type("BrandNew", (), {"work": lambda self: None, "__module__": "s2pt"}), raising=False
    )
    missing = hostile_receivers.unknown()
    assert any("brand_new(no_such_parameter)" in name for name in missing)
    assert any("BrandNew.work" in name for name in missing)


@settings(deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from(sorted(hostile_calls.groups())))
def test_hostile_calls(rng, group):
    count = hostile_calls.Count()
    hostile_calls.Sequence(rng, group, hostile_calls.groups()[group], count).run(12)


def test_hostile_calls_of_a_seed():
    """The same, drawn by the standard library, which is quicker by far."""
    count = hostile_calls.Count()
    hostile_calls.search(random.Random(11), 500, 12, count)
    print(f"\n{count.table()}")
    assert all(count.by_outcome().values())
    tried = {name for name, _ in count.of}
    assert len(tried) > len(surface()) / 2


@pytest.mark.campaign
def test_campaign():
    """S2PT_HOSTILE_CALLS calls (a million), each sequence from a seed of its own that a failure names."""
    count, seed = hostile_calls.Count(), 1_000_000
    while sum(count.by_outcome().values()) < CALLS:
        seed += 1
        try:
            hostile_calls.search(random.Random(seed), 20, 16, count)
        except hostile_calls.Defect as defect:
            pytest.fail(f"seed {seed}: {defect}")
    print(f"\n{count.table()}\nseeds 1000001 to {seed}")


# ------------------------------------------------------------------------------------------------- what was found


class Copies(np.ndarray):
    """An array whose own copy has another shape."""

    def copy(self, order="C"):
        return np.zeros((), np.uint64)


def replay(events):
    return _core.ReplayJob(events, ipa_bits=40, granule=PAGE, start_level=None, lpa2=False, policy="serial",
    order="free",
                           sizes="trace")  # fmt: skip


def test_the_copy_method_of_a_derived_array_is_not_asked():
    rows = np.zeros((3, 42), np.uint64)[:, ::2].view(Copies)
    with pytest.raises(s2pt.TraceError, match="row 0"):  # it panicked
        replay(rows)
    pages = (np.arange(4000, dtype=np.uint64) * np.uint64(PAGE))[::2].view(Copies)
    assert Stage2().map_many(pages, pages).bytes == 2000 * PAGE


def test_a_sequence_that_lies_about_its_length():
    class Long:
        def __len__(self):
            return 1 << 40

        def __iter__(self):
            return iter(["no such row"])

    with pytest.raises(s2pt.OptionError, match="no row is called"):  # it took memory for all of them, and aborted
        _core.BenchJob(rows=Long(), rounds=1, size="2MiB")
    with pytest.raises(TypeError, match="not one"):
        _core.BenchJob(rows="map", rounds=1, size="2MiB")


def test_messages_have_an_end():
    for value in (10**5000, -(10**5000)):
        for call in (
            lambda value: Stage2().map(value, PAGE, 0),
            lambda value: s2pt.parse_size(value),
            lambda value: Stage2().split(0, PAGE, value),
        ):
            with pytest.raises((s2pt.AddressError, s2pt.LevelError)) as caught:
                call(value)
            assert len(str(caught.value)) < 200
    with pytest.raises(s2pt.SizeError):  # Python's own ValueError, about digits
        s2pt.parse_size("9" * 5000)
    assert s2pt.parse_size("0" * 5000 + "4096") == PAGE
    with pytest.raises(s2pt.LevelError):
        s2pt.Geometry(PAGE, 40, 48, 1, 2).size(-(10**5000))  # a shift by that many bits


def test_an_integer_that_lies_about_itself():
    s2 = Stage2()
    assert s2.map(LoudInt(PAGE), LoudInt(PAGE), LoudInt(0)).bytes == PAGE
    with pytest.raises(s2pt.AddressError, match=r"^IPA -0x5 is negative"):  # what its own < raised
        s2.unmap(LoudInt(-5), PAGE)
    with pytest.raises(s2pt.AddressError, match="0x400000000000000000 does not fit"):
        s2.unmap(LoudInt(1 << 70), PAGE)


def test_a_stall_ends_in_a_second():
    for kind in (Stage2, s2pt.Vm):
        with pytest.raises(s2pt.OptionError, match="one second"):
            kind(stall_tlbi_ns=(1 << 64) - 1)
        kind(stall_tlbi_ns=1_000_000_000)


def test_poke_writes_no_way_out_of_the_table():
    s2 = Stage2()
    s2.map(0, "2MiB", pa=0)
    with pytest.raises(s2pt.OptionError, match="table descriptor"):  # the next walk panicked
        s2.poke(0, 2, 0xFFF_FFFF_F003)
    assert s2.translate(0).level == 2


def test_wrong_kinds_of_objects_are_type_errors():
    """They were AttributeErrors from within."""
    vm = s2pt.Vm(memory="4MiB")
    for call in (lambda: vm.handle(7), lambda: s2pt.view.svg(np.zeros(1)), lambda: s2pt.view.html(None),
                 lambda: s2pt.trace.as_words(7)):  # fmt: skip
        with pytest.raises(TypeError):
            call()


def test_every_step_of_an_explanation_has_a_repr():
    for ipa in (0, 1 << 35, 1 << 41):
        for step in hostile_receivers.small_table().explain(ipa).steps:
            assert repr(step).startswith("Step(")
    assert "address=None" in repr(s2pt.Step(3, 0, 0, PAGE, "leaf"))


def test_what_an_object_raises_when_asked_for_its_bytes_comes_through():
    class Memory:
        def __call__(self, pa, size):
            raise Own("read")

    with pytest.raises(Own):
        s2pt.image.Image(Memory(), 0x802D_3558, 0x8000)
    with pytest.raises(s2pt.ImageError, match="gave"):
        s2pt.image.Image(lambda pa, size: bytes(size + 1), 0x802D_3558, 0x8000)


# ------------------------------------------------------------------------------------------------- sinks


def mapped(sink):
    s2 = Stage2(sink=sink, frames=64)
    s2.map(0, "2MiB", pa=0, largest=3)
    return s2


@pytest.mark.parametrize(
    "what",
    ["unmap", "map", "list", "stats", "dump", "leaves_array", "explain", "test_young", "split", "map_many", "close"],
)
def test_a_sink_that_calls_its_own_table(what):
    """It waited for the entry that its own thread holds."""
    answers = []

    def sink(kind, fields):
        calls = {
            "unmap": lambda: s2.unmap(0, 2 * MIB), "map": lambda: s2.map(0, PAGE, pa=0x9000), "list": lambda: list(s2),
            "stats": lambda: s2.stats(), "dump": lambda: s2.dump(), "leaves_array": lambda: s2.leaves_array(),
            "explain": lambda: s2.explain(0), "test_young": lambda: s2.test_young(0, PAGE),
            "split": lambda: s2.split(0, PAGE),
            "map_many": lambda: s2.map_many(np.zeros(3, np.uint64), np.zeros(3, np.uint64)),
            "close": lambda: s2.close(),
        }  # fmt: skip
        if len(answers) < 50:
            answers.append(None)
            try:
                answers.append(calls[what]())
            except (s2pt.Again, s2pt.ClosedError) as refused:
                answers.append(refused)

    s2 = None
    s2 = mapped(lambda kind, fields: s2 is not None and sink(kind, fields))
    s2.unmap(0, PAGE)
    assert len(answers) >= 2
    if not s2.closed:
        hostile_calls.sound(s2)


def test_a_sink_cannot_drain():
    said = []

    def sink(kind, fields):
        try:
            s2.drain()
        except s2pt.S2ptError as refused:
            said.append(str(refused))

    s2 = None
    s2 = mapped(lambda kind, fields: s2 is not None and sink(kind, fields))
    s2.unmap(0, "2MiB")
    assert said
    assert "call it elsewhere" in said[0]
    s2.drain()


def test_a_sink_moves_the_iterator_that_called_it():
    """Its lock is held by the thread itself."""
    s2, given_ = None, []

    def sink(kind, fields):
        if given_ is not None and s2 is not None:
            try:
                given_.append(next(leaves, None))
            except (ValueError, s2pt.Again) as refused:
                given_.append(refused)

    s2 = mapped(lambda kind, fields: sink(kind, fields))
    leaves = iter(s2)
    next(leaves)
    s2.unmap(0, "2MiB")
    for _ in range(20):
        next(leaves, None)
    assert given_


@pytest.mark.parametrize("kind", [Own, KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_a_sink_that_raises(kind, monkeypatch):
    raised = []
    monkeypatch.setattr(sys, "unraisablehook", lambda told: raised.append(told.exc_type))

    def sink(what, fields):
        raise kind("sink")

    s2 = mapped(sink)
    assert s2.unmap(0, PAGE) == PAGE
    assert set(raised) == {kind}
    hostile_calls.sound(s2)


def test_a_table_goes_while_an_exception_is_on_its_way():
    """Its frames go with it, and the sink hears of that: the exception is none of its business."""
    told = []

    def with_garbage():
        s2 = mapped(lambda kind, fields: told.append(kind))
        s2.unmap(0, "2MiB")
        return s2

    for _ in range(3):
        told.clear()
        with pytest.raises(TypeError, match="int\\(\\) argument"):
            int(with_garbage())
        assert "free" in told


# ------------------------------------------------------------------------------------------------- arrays that change


def test_arrays_that_another_thread_writes():
    """What a call works on is a copy: whatever was in the array when it was taken is checked as a whole."""
    ipa = np.arange(20_000, dtype=np.uint64) * np.uint64(PAGE)
    ending = threading.Event()

    def scribble():
        while not ending.is_set():
            ipa[::7] = (1 << 64) - 1
            ipa[::7] = 0

    thread = threading.Thread(target=scribble)
    thread.start()
    s2, outcomes = Stage2(frames=200), set()
    for _ in range(60):
        try:
            s2.map_many(ipa, ipa.copy() & np.uint64(0xFFFF_F000))
            outcomes.add("done")
        except (s2pt.AlignmentError, s2pt.AddressError) as refused:
            outcomes.add(type(refused).__name__)
    ending.set()
    thread.join()
    hostile_calls.sound(s2)
    assert outcomes
