"""Every public call with anything at all: a typed error or an answer, never a panic, never half a change."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import s2pt
from s2pt import MemType, Prot, Stage2
from s2pt._core import DirtyLogJob, Image, ReplayJob, Vm, explain_entry, explain_esr, explain_vtcr, explain_vttbr

PAGE = 4096
EDGES = [0, 1, 7, PAGE - 1, PAGE, PAGE + 1, 2 << 20, 1 << 30, 1 << 39, (1 << 40) - PAGE, 1 << 40, 1 << 48]
EDGES += [(1 << 64) - PAGE, (1 << 64) - 1, 1 << 64, 1 << 200, -1, -PAGE, -(1 << 200)]

KEYWORDS = [
    "size", "pa", "prot", "memtype", "existing", "largest", "software", "af", "access", "level", "flush", "errors",
    "granule", "lpa2", "fwb", "dialect", "vtcr", "far", "hpfar", "mode", "kind", "clear", "host", "readonly",
    "frames", "ipa_bits", "pa_bits", "start_level", "vmid", "sink", "backing", "policy", "over_tables", "base",
]  # fmt: skip

addresses = st.one_of(
    st.sampled_from(EDGES),
    st.integers(0, 1 << 14).map(lambda page: page * PAGE),
    st.integers(-(1 << 70), 1 << 70),
)
odd = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(),
    st.text(max_size=8),
    st.binary(max_size=8),
    st.sampled_from(["2MiB", "1GiB", "keep", "replace", "error", "r", "w", "x", "normal", "device-GRE", "kvm", "kvm6"]),
    st.sampled_from([np.uint64(5), np.int8(-1), np.float32(1), object(), [], {}, (), 1j, len, Prot.RW, MemType.DEVICE]),
    st.lists(addresses, max_size=3),
)
arrays = st.one_of(
    st.lists(st.integers(0, (1 << 64) - 1), max_size=4).map(lambda items: np.array(items, dtype=np.uint64)),
    st.lists(st.integers(0, 1 << 14), max_size=4).map(lambda pages: np.array(pages, dtype=np.uint64) * np.uint64(PAGE)),
    st.sampled_from([np.zeros((2, 2), np.uint64), np.zeros(3), np.zeros(2, ">u8"), np.array([object()]), np.uint64(3)]),
)
values = st.one_of(addresses, addresses, odd, arrays)
arguments = st.tuples(
    st.lists(values, max_size=5),
    st.dictionaries(
        st.sampled_from(KEYWORDS),
        values,
        max_size=3,
    ),
)  # fmt: skip

ALLOWED = (s2pt.S2ptError, TypeError, ValueError, BufferError)
OPERATIONS = [name for name in dir(Stage2) if not name.startswith("_") and callable(getattr(Stage2, name))]
OPERATIONS += ["__getitem__", "__contains__"]
VM_OPERATIONS = [name for name in dir(Vm) if not name.startswith("__") and callable(getattr(Vm, name))]


def sound(s2):
    """Check that nothing is in between and that no frame is lost."""
    s2.drain()
    stats = s2.stats()
    assert (stats.locked, stats.frozen) == (0, 0)
    assert s2.frames_in_use == sum(stats.tables.values())


def attempt(function, args, keywords):
    """Call; return whether it was refused."""
    try:
        result = function(*args, **keywords)
        if hasattr(result, "__next__"):
            list(result)
    except ALLOWED:
        return True
    return False


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(OPERATIONS), arguments), min_size=1, max_size=12))
def test_stage2(calls):
    # Few frames, so that no call maps a terabyte in pages.
    s2 = Stage2(frames=24, sink="counting")
    s2.map(0, "2MiB", pa=1 << 30)
    for name, (args, keywords) in calls:
        before = (list(s2), s2.stats()) if not s2.closed else None
        refused = attempt(getattr(s2, name), args, keywords)
        if s2.closed:
            assert name == "close" or before is None
            return
        if refused and not name.endswith("_many"):
            s2.drain()
            assert (list(s2), s2.stats()) == before, f"{name} was refused and changed something"
    sound(s2)


@pytest.mark.slow
@settings(deadline=None)
@given(st.lists(st.tuples(st.sampled_from(VM_OPERATIONS), arguments), min_size=1, max_size=8))
def test_vm(calls):
    vm = Vm(memory="4MiB")
    for name, (args, keywords) in calls:
        attempt(getattr(vm, name), args, keywords)
    vm.drain()
    assert (vm.stats().locked, vm.stats().frozen) == (0, 0)
    assert vm.frames_in_use == sum(vm.stats().tables.values())


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.sampled_from([Stage2, Image, Image.from_bytes, explain_entry, explain_esr, explain_vtcr, explain_vttbr]),
    arguments,
)
def test_constructors_and_functions(function, given_arguments):
    attempt(function, *given_arguments)


numbers = st.one_of(st.integers(0, 5000), addresses, odd)


@pytest.mark.slow
@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {
            name: st.one_of(st.just(usual), numbers)
            for name, usual in {
                "vcpus": 2, "bytes_per_vcpu": "1MiB", "iterations": 1, "backing": "thp", "manual_protect": True,
                "write_percent": 100, "random": False, "seed": 1, "policy": "serial",
            }.items()
        }
    )
)  # fmt: skip
def test_jobs(options):
    attempt(DirtyLogJob, (), options)


@pytest.mark.slow
@settings(deadline=None)
@given(st.binary(max_size=200), st.integers(0, (1 << 64) - 1), st.integers(0, (1 << 64) - 1), addresses)
def test_image_of_garbage(memory, vtcr, vttbr, base):
    for first in (memory, lambda pa, size: (memory * (size + 1))[:size] or None):
        for register in (vtcr, 0x802D_3558, 0x802D_355C, 0x1_802E_358C):
            attempt(lambda first=first, register=register: walk(Image(first, register, vttbr, base=base)), (), {})


def walk(image):
    list(image.leaves(errors="skip"))
    image.leaves_array(errors="skip")
    image.invalid()


def test_replay_rows_of_garbage():
    rng = np.random.default_rng(7)
    options = {"ipa_bits": 40, "granule": PAGE, "start_level": None, "lpa2": False, "policy": "parallel"}
    kinds = np.delete(np.arange(1, 13), 10)  # 11 would end the run
    ran = 0
    for _ in range(300):
        rows = rng.integers(0, 6, (8, 21), dtype=np.uint64)
        rows[:, 1] = rng.choice(kinds, 8)
        rows[:, [4, 5, 9, 10, 11, 14, 15, 17]] *= np.uint64(PAGE)
        rows[:, 6] = rng.choice([0x9200_0045, 0x9200_004F, 0x8200_0007, 0x9200_000B, 0, 0x9200_0010], 8)
        rows[:, 13] = rng.choice(np.array([0, 0, 0, 2**64 - 11], np.uint64), 8)
        order, sizes = rng.choice(["recorded", "threads", "free"]), rng.choice(["trace", "recorded"])
        try:
            job = ReplayJob(rows, order=str(order), sizes=str(sizes), **options)
            job.start()
            assert job.wait(60)
            result = job.result()
        except s2pt.S2ptError as error:
            refusal = str(error)
            assert "internal error" not in refusal, rows.tolist()
            continue
        ran += 1
        assert (result["stats"]["locked"], result["stats"]["frozen"]) == (0, 0)
    assert ran >= 20


def test_odd_waits():
    job = ReplayJob(np.zeros((0, 21), np.uint64), ipa_bits=40, granule=PAGE, start_level=None, lpa2=False,
                    policy="serial", order="free", sizes="trace")  # fmt: skip
    job.start()
    assert job.wait(math.inf)
    for timeout in (-1, -math.inf, math.nan, 1e300, 0):
        assert job.wait(timeout)
    with pytest.raises(TypeError):
        job.wait("soon")
