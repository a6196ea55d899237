"""Histories of concurrent operations: those of the table have an order, and the search refuses those that have none."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2pt import Stage2
from s2pt.errors import OptionError
from s2pt.model import ModelStage2
from s2pt.testing import Call
from s2pt.testing.linearizability import History, Leaf, Operation, check, record
from s2pt.testing.linearizability.record import _result
from s2pt.types import Access, Changed, Existing, Mapped, MemType, Prot, Semantics, Translation

PAGE, BASE = 4096, 0x4000_0000
P0, P1, P2 = (BASE + index * PAGE for index in range(3))
OUT, ELSEWHERE = 0x9000_0000, 0xA000_0000
KEEP, ERROR = {"existing": Existing.KEEP}, {"existing": Existing.ERROR}


def history(*operations: tuple, pages=(P0, P1, P2), **keywords) -> History:
    """Make one of (moments, call, result); the thread is the number of the operation."""
    made = []
    for thread, ((invoked, returned), call, result) in enumerate(operations):
        result = result if isinstance(result, tuple) else ("returned", result)
        made.append(Operation(thread, invoked, returned, call, result))
    return History(made, pages, **keywords)


def map_(ipa, size=PAGE, pa=OUT, prot=Prot.RW, **keywords) -> Call:
    return Call("map", ipa, size, pa, prot, **keywords)


def read(ipa) -> Call:
    return Call("read", ipa)


MADE = Mapped(PAGE, 0)
KEPT = Mapped(0, PAGE)
LEAF = Leaf(OUT, Prot.RW)

# Each with an order, and the same with one thing changed for which there is none.
PAIRS = {
    "a read after an unmap returned": (
        [((0, 1), map_(P0), MADE), ((2, 4), Call("unmap", P0, PAGE), PAGE), ((3, 5), read(P0), LEAF)],
        [((0, 1), map_(P0), MADE), ((2, 3), Call("unmap", P0, PAGE), PAGE), ((4, 5), read(P0), LEAF)],
    ),
    "a page is mapped twice": (
        [((0, 3), map_(P0, **ERROR), MADE), ((1, 2), map_(P0, **ERROR), ("raised", "ConflictError", P0))],
        [((0, 3), map_(P0, **ERROR), MADE), ((1, 2), map_(P0, **ERROR), MADE)],
    ),
    "a page is unmapped twice": (
        [((0, 1), map_(P0), MADE), ((2, 5), Call("unmap", P0, PAGE), PAGE), ((3, 4), Call("unmap", P0, PAGE), 0)],
        [((0, 1), map_(P0), MADE), ((2, 5), Call("unmap", P0, PAGE), PAGE), ((3, 4), Call("unmap", P0, PAGE), PAGE)],
    ),
    "a lost update": (
        [
            ((0, 1), map_(P0), MADE),
            ((2, 5), Call("write_protect", P0, PAGE), Changed(1, PAGE)),
            ((3, 4), Call("test_and_clear_young", P0, PAGE), True),
            ((6, 7), read(P0), Leaf(OUT, Prot.R, af=False)),
        ],
        [
            ((0, 1), map_(P0), MADE),
            ((2, 5), Call("write_protect", P0, PAGE), Changed(1, PAGE)),
            ((3, 4), Call("test_and_clear_young", P0, PAGE), True),
            ((6, 7), read(P0), Leaf(OUT, Prot.RW, af=False)),
        ],
    ),
    "two readers see two changes in two orders": (
        [
            ((0, 1), map_(P0), MADE),
            ((2, 20), map_(P0, pa=ELSEWHERE), MADE),
            ((3, 4), read(P0), LEAF),
            ((5, 6), read(P0), Leaf(ELSEWHERE, Prot.RW)),
        ],
        [
            ((0, 1), map_(P0), MADE),
            ((2, 20), map_(P0, pa=ELSEWHERE), MADE),
            ((3, 4), read(P0), Leaf(ELSEWHERE, Prot.RW)),
            ((5, 6), read(P0), LEAF),
        ],
    ),
    "the parts of a range": (
        [
            ((0, 1), map_(P0, 2 * PAGE), Mapped(2 * PAGE, 0)),
            ((2, 7), Call("unmap", P0, 2 * PAGE), PAGE),
            ((3, 8), Call("unmap", P0, 2 * PAGE), PAGE),
            ((9, 10), read(P0), None),
        ],
        [
            ((0, 1), map_(P0, 2 * PAGE), Mapped(2 * PAGE, 0)),
            ((2, 7), Call("unmap", P0, 2 * PAGE), PAGE),
            ((3, 8), Call("unmap", P0, 2 * PAGE), 2 * PAGE),
            ((9, 10), read(P0), None),
        ],
    ),
    "who had which part shows later": (
        [
            ((0, 1), map_(P0, 2 * PAGE), Mapped(2 * PAGE, 0)),
            ((2, 10), Call("unmap", P0, 2 * PAGE), PAGE),
            ((3, 6), Call("unmap", P0, PAGE), PAGE),
            ((11, 12), map_(P0, **ERROR), MADE),
        ],
        [
            ((0, 1), map_(P0, 2 * PAGE), Mapped(2 * PAGE, 0)),
            ((2, 10), Call("unmap", P0, 2 * PAGE), PAGE),
            ((3, 6), Call("unmap", P0, PAGE), PAGE),
            ((11, 12), read(P1), LEAF),
        ],
    ),
    "a refused map shows nothing": (
        [
            ((0, 1), map_(P1), MADE),
            ((2, 9), map_(P0, 2 * PAGE, **ERROR), ("raised", "ConflictError", P1)),
            ((3, 4), read(P0), None),
            ((5, 6), map_(P0), MADE),
            ((7, 8), read(P0), LEAF),
        ],
        [
            ((0, 1), map_(P1), MADE),
            ((2, 9), map_(P0, 2 * PAGE, **ERROR), ("raised", "ConflictError", P1)),
            ((3, 4), read(P0), LEAF),
            ((5, 6), read(P0), None),
        ],
    ),
    "a refused map leaves nothing": (
        [
            ((0, 1), map_(P1), MADE),
            ((2, 5), map_(P0, 2 * PAGE, **ERROR), ("raised", "ConflictError", P1)),
            ((6, 7), read(P0), None),
        ],
        [
            ((0, 1), map_(P1), MADE),
            ((2, 5), map_(P0, 2 * PAGE, **ERROR), ("raised", "ConflictError", P1)),
            ((6, 7), read(P0), LEAF),
        ],
    ),
    "a refused map has met holes before": (
        [
            ((0, 1), map_(P0, 2 * PAGE), Mapped(2 * PAGE, 0)),
            ((2, 5), map_(P0, 2 * PAGE, **ERROR), ("raised", "ConflictError", P1)),
            ((3, 6), Call("unmap", P0, PAGE), PAGE),
        ],
        [
            ((0, 1), map_(P0, 2 * PAGE), Mapped(2 * PAGE, 0)),
            ((2, 5), map_(P0, 2 * PAGE, **ERROR), ("raised", "ConflictError", P1)),
            ((6, 7), Call("unmap", P0, PAGE), PAGE),
        ],
    ),
    "a map that keeps": (
        [((0, 3), map_(P0, **KEEP), MADE), ((1, 4), map_(P0, 2 * PAGE, **KEEP), Mapped(PAGE, PAGE))],
        [((0, 3), map_(P0, **KEEP), ("raised", "Again")), ((1, 4), map_(P0, 2 * PAGE, **KEEP), Mapped(PAGE, PAGE))],
    ),
    "a right that was taken": (
        [
            ((0, 1), map_(P0), MADE),
            ((2, 5), Call("protect", P0, PAGE, Prot.R), Changed(1, PAGE)),
            ((3, 4), Call("translate", P0, Access.WRITE), Translation(OUT, 3, Prot.RW, MemType.NORMAL)),
        ],
        [
            ((0, 1), map_(P0), MADE),
            ((2, 3), Call("protect", P0, PAGE, Prot.R), Changed(1, PAGE)),
            ((4, 5), Call("translate", P0, Access.WRITE), Translation(OUT, 3, Prot.RW, MemType.NORMAL)),
        ],
    ),
    "an entry that is held is a fault": (
        [
            ((0, 1), map_(P0), MADE),
            ((2, 5), map_(P0, pa=ELSEWHERE), MADE),
            ((3, 4), Call("translate", P0, Access.READ), ("raised", "TranslationFault")),
        ],
        [
            ((0, 1), map_(P0), MADE),
            ((2, 3), map_(P0, pa=ELSEWHERE), MADE),
            ((4, 5), Call("translate", P0, Access.READ), ("raised", "TranslationFault")),
        ],
    ),
    "nothing to relax": (
        [((0, 3), map_(P0), MADE), ((1, 2), Call("relax", P0, PAGE, Prot.W), ("raised", "NotMappedError"))],
        [((0, 1), map_(P0), MADE), ((2, 3), Call("relax", P0, PAGE, Prot.W), ("raised", "NotMappedError"))],
    ),
    "young at the same time twice": (
        [
            ((0, 1), map_(P0), MADE),
            ((2, 5), Call("test_and_clear_young", P0, PAGE), True),
            ((3, 4), Call("test_and_clear_young", P0, PAGE), False),
        ],
        [
            ((0, 1), map_(P0), MADE),
            ((2, 5), Call("test_and_clear_young", P0, PAGE), True),
            ((3, 4), Call("test_and_clear_young", P0, PAGE), True),
        ],
    ),
    "what is the same is kept": (
        [((0, 1), map_(P0), MADE), ((2, 3), map_(P0), KEPT)],
        [((0, 1), map_(P0), MADE), ((2, 3), map_(P0), MADE)],
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_one_thing_changed_and_there_is_no_order(name: str) -> None:
    good, bad = PAIRS[name]
    assert check(history(*good)), check(history(*good)).counterexample
    verdict = check(history(*bad))
    assert not verdict
    assert "fits nowhere" in verdict.counterexample


# What a table that fills hole after hole, and empties them again where a page is in the way, has shown meanwhile.
SHOWN = {
    "a page that was never mapped": [((3, 4), read(P0), LEAF), ((5, 6), read(P0), None)],
    "a page that a peer was told is there, and lost": [((3, 4), map_(P0), KEPT), ((10, 11), read(P0), None)],
    "a page that a peer could not have": [((3, 4), map_(P0, **ERROR), ("raised", "ConflictError", P0))],
    "a page that a peer took away": [((3, 4), Call("unmap", P0, PAGE), PAGE)],
}


@pytest.mark.parametrize("name", SHOWN)
def test_only_with_kvms_semantics_a_refused_map_may_have_filled_holes(name: str) -> None:
    refused = ((2, 9), map_(P0, 2 * PAGE, **ERROR), ("raised", "ConflictError", P1))
    seen = history(((0, 1), map_(P1), MADE), refused, *SHOWN[name])
    assert not check(seen)
    verdict = check(replace(seen, semantics=Semantics.KVM))
    assert verdict, verdict.counterexample
    # Also if it has returned when the peer does, and not when it had returned before.
    rests = ((3, 12), Call("test_and_clear_young", P0, PAGE), True)
    assert check(history(((0, 1), map_(P1), MADE), refused, rests, semantics=Semantics.KVM))
    late = history(((0, 1), map_(P1), MADE), refused, ((12, 13), read(P0), LEAF), semantics=Semantics.KVM)
    assert not check(late)


def test_what_a_peer_changed_since_is_not_taken_back() -> None:
    """A leaf that is old now is not the one that was filled in. In a block nobody knows whether it is."""
    refused = ((2, 9), map_(P0, 2 * PAGE, **ERROR), ("raised", "ConflictError", P1))
    aged = ((3, 4), Call("test_and_clear_young", P0, PAGE), True)
    for af, blocks, fits in ((False, False, True), (True, False, False), (True, True, True)):
        found = ((10, 11), read(P0), Leaf(OUT, Prot.RW, af=af))
        seen = history(((0, 1), map_(P1), MADE), refused, aged, found, blocks=blocks, semantics=Semantics.KVM)
        assert bool(check(seen)) is fits


def test_the_counterexample_is_the_window() -> None:
    other = [((100 + 2 * i, 101 + 2 * i), read(P2), None) for i in range(50)]
    _, bad = PAIRS["a lost update"]
    shown = check(history(*bad, *other)).counterexample
    assert shown.splitlines() == [
        f"page {P0:#x}: no order gives these results",
        f"at moment 6 it can be: {OUT:#x} R, old",
        f"  thread 3  |-|  6..7  read({P0:#x}) -> {OUT:#x} RW, old  <- fits nowhere",
    ]
    shown = check(history(*PAIRS["a page is mapped twice"][1])).counterexample
    assert [line for line in shown.splitlines() if line.startswith("  thread")] == [
        f"  thread 0  |-----|  0..3  {map_(P0, **ERROR)!r} -> Mapped(bytes=4KiB, kept=0B)  <- fits nowhere",
        f"  thread 1    |-|    1..2  {map_(P0, **ERROR)!r} -> Mapped(bytes=4KiB, kept=0B)",
    ]


def test_moments_must_tell() -> None:
    with pytest.raises(ValueError, match="before it was invoked"):
        Operation(0, 3, 2, read(P0), ("returned", None))
    with pytest.raises(ValueError, match="two moments"):
        history(((0, 1), read(P0), None), ((1, 2), read(P0), None))


# --- sequential histories ---


@st.composite
def calls(draw: st.DrawFn) -> Call:
    first = draw(st.integers(0, 2))
    ipa, size = BASE + first * PAGE, draw(st.integers(1, 3 - first)) * PAGE
    prot = draw(st.sampled_from((Prot.RW, Prot.R, Prot.RX)))
    name = draw(
        st.sampled_from(
            (
                *("map", "map", "unmap", "protect", "write_protect", "relax", "mark_young", "test_young"),
                *("test_and_clear_young", "split", "collapse", "translate", "read"),
            )
        )
    )
    if name == "map":
        pa = draw(st.sampled_from((OUT, ELSEWHERE))) + first * PAGE
        keywords = {"existing": draw(st.sampled_from(Existing)), "software": draw(st.integers(0, 1))}
        return Call(name, ipa, size, pa, prot, **keywords)
    if name in ("protect", "relax"):
        return Call(name, ipa, size, prot)
    if name == "translate":
        return Call(name, ipa, draw(st.sampled_from(Access)))
    return Call(name, ipa) if name == "read" else Call(name, ipa, size)


def sequential(steps: list[Call]) -> list[Operation]:
    model = ModelStage2()
    return [
        Operation(index % 3, 2 * index, 2 * index + 1, call, _result(model, call, PAGE))
        for index, call in enumerate(steps)
    ]


@given(st.lists(calls(), max_size=30))
def test_what_the_model_does_in_sequence_has_an_order(steps: list[Call]) -> None:
    verdict = check(History(sequential(steps), (P0, P1, P2)))
    assert verdict, verdict.counterexample


@given(st.lists(calls(), min_size=2, max_size=20), st.data())
def test_wider_intervals_keep_the_order(steps: list[Call], data: st.DataObject) -> None:
    """Calls that begin earlier and return later allow more, never less."""
    operations = sequential(steps)
    moments = sorted(
        (key, which, index)
        for index in range(len(operations))
        for which, key in enumerate((index - data.draw(st.floats(0, 3)), index + data.draw(st.floats(0.01, 3))))
    )
    at = {(which, index): moment for moment, (_, which, index) in enumerate(moments)}
    wide = [replace(o, invoked=at[0, i], returned=at[1, i]) for i, o in enumerate(operations)]
    verdict = check(History(wide, (P0, P1, P2)))
    assert verdict, verdict.counterexample


@given(st.lists(calls(), max_size=15))
def test_a_change_that_shows_cannot_change_places(steps: list[Call]) -> None:
    """A read that follows a change, and sees it, put before it."""
    before = sequential(steps)
    model = ModelStage2()
    for call in steps:
        _result(model, call, PAGE)
    change = map_(P0, pa=0xB000_0000)
    changed = _result(model, change, PAGE)
    seen = _result(model, read(P0), PAGE)
    now = 2 * len(before)
    right = [Operation(0, now, now + 1, change, changed), Operation(1, now + 2, now + 3, read(P0), seen)]
    wrong = [replace(right[1], invoked=now, returned=now + 1), replace(right[0], invoked=now + 2, returned=now + 3)]
    assert check(History([*before, *right], (P0, P1, P2)))
    assert not check(History([*before, *wrong], (P0, P1, P2)))


# --- the table ---

SHAPES = {
    "few threads, few pages": {"threads": 4, "operations": 50, "pages": 4},
    "one page": {"threads": 6, "operations": 40, "pages": 1},
    "many threads": {"threads": 8, "operations": 25, "pages": 6},  # of more, ranges add up in too many ways
    "pages of a block": {"threads": 4, "operations": 50, "pages": 4, "blocks": True},
    "a page of a block": {"threads": 6, "operations": 40, "pages": 1, "blocks": True},
    "at every step": {"threads": 4, "operations": 50, "pages": 4},
    "at every step of a block": {"threads": 4, "operations": 50, "pages": 4, "blocks": True},
}


def table_for(shape: str, seed: int) -> Stage2:
    """Make a table on which threads meet: at every step, or (every second) where TLBIs sleep while entries are held."""
    if shape.startswith("at every step"):
        return Stage2(sink=lambda *_: time.sleep(0))  # the core is given away
    return stalling(seed)


def stalling(seed: int) -> Stage2:
    granule = (4096, 4096, 16384)[seed % 3]
    ipa_bits = 40 if granule == 4096 else 36
    return Stage2(ipa_bits, granule, stall_tlbi_ns=seed % 2, tlbi_range=seed % 4 < 2)


@pytest.mark.parametrize("shape", SHAPES)
def test_the_table_is_linearizable(shape: str) -> None:
    overlapping = 0
    for seed in range(4):
        found = record(table_for(shape, seed), seed=seed, **SHAPES[shape])
        assert len(found.operations) - SHAPES[shape].get("blocks", False) == (
            SHAPES[shape]["threads"] * SHAPES[shape]["operations"]
        )
        verdict = check(found)
        assert verdict, f"seed {seed}\n{verdict.counterexample}"
        overlapping += found.overlapping()
    assert overlapping > 200, "the threads hardly met: this says nothing"


@pytest.mark.parametrize("shape", ["few threads, few pages", "one page"])
def test_a_history_of_the_table_that_is_tampered_with(shape: str) -> None:
    """Each read that is made to see what nobody ever wrote is found, and shown."""
    found = record(stalling(1), seed=1, **SHAPES[shape])
    reads = [o for o in found.operations if o.call.name == "read"]
    for victim in Random(1).sample(reads, 5):
        wrong = replace(victim, result=("returned", Leaf(0xDEAD_0000, Prot.RW)))
        verdict = check(replace(found, operations=[wrong if o is victim else o for o in found.operations]))
        assert not verdict
        assert f"{wrong!r}  <- fits nowhere" in verdict.counterexample


def test_lost_effects_of_the_table_are_found() -> None:
    """An unmap that took a page away is left out: the page is gone, and nobody did it."""
    found = record(stalling(3), seed=3, threads=4, operations=60, pages=2)
    unmaps = [o for o in found.operations if o.call.name == "unmap" and o.result[1] == o.call.args[1]]
    refused = sum(
        not check(replace(found, operations=[o for o in found.operations if o is not victim])) for victim in unmaps
    )
    # Not all: a peer who unmaps the same page a moment later hides it.
    assert refused > len(unmaps) / 2


def test_any_adapter_can_be_recorded() -> None:
    found = record(Stage2(), threads=3, operations=30, pages=2, seed=5)
    assert check(found)

    class Locked:
        """The model, one caller at a time."""

        def __init__(self) -> None:
            self.model = ModelStage2()

        def __getattr__(self, name: str):
            return getattr(self.model, name)

    found = record(Locked(), threads=1, operations=60, pages=2, seed=5)
    assert check(found)
    assert {o.call.name for o in found.operations} >= {"map", "unmap", "read", "translate"}


def test_an_adapter_that_loses_updates_is_found() -> None:
    """Write protection that forgets one page in ten."""

    class Forgetful:
        def __init__(self) -> None:
            self.model, self.calls = ModelStage2(), 0

        def __getattr__(self, name: str):
            return getattr(self.model, name)

        def write_protect(self, ipa: int, size: int) -> Changed:
            self.calls += 1
            before = list(self.model.leaves(ipa, size))
            answer = self.model.write_protect(ipa, size)
            if self.calls % 3 == 0:
                for leaf in before:
                    self.model.protect(leaf.ipa, leaf.size, leaf.prot)
            return answer

    verdicts = [check(record(Forgetful(), threads=1, operations=80, pages=2, seed=seed)) for seed in range(5)]
    assert not all(verdicts)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"threads": 65}, {"pages": 0}, {"pages": 513}, {"operations": 0}])
def test_a_plan_that_nobody_can_run(wrong: dict[str, int]) -> None:
    with pytest.raises(OptionError, match="is not in 1\\.\\."):
        record(Stage2(), **wrong)


@pytest.mark.campaign
def test_campaign() -> None:
    """Histories of all shapes for S2PT_CAMPAIGN_SECONDS (600), and how many that were."""
    seconds = float(os.environ.get("S2PT_CAMPAIGN_SECONDS", "600"))
    begun, seed, operations, overlapping = time.monotonic(), 0, 0, 0
    while time.monotonic() - begun < seconds:
        for shape, plan in SHAPES.items():
            found = record(table_for(shape, seed), seed=seed, **plan)
            verdict = check(found)
            assert verdict, f"{shape}, seed {seed}\n{verdict.counterexample}"
            operations += len(found.operations)
            overlapping += found.overlapping()
        seed += 1
    took = time.monotonic() - begun
    print(f"\n{seed * len(SHAPES)} histories, {operations} operations, {overlapping} pairs overlap, {took:.0f} s")
