"""`s2pt.Stage2` against the model, one random call after the other; and proof that the comparison can fail.

`pytest -m campaign` runs 20,000 examples; S2PT_CAMPAIGN_EXAMPLES says another number.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from s2pt import Stage2
from s2pt.errors import NotMappedError, OutOfFramesError, S2ptError
from s2pt.model import ModelStage2
from s2pt.testing import Adapter, ModelAdapter, TableConfig, make_machine, strategies
from s2pt.types import Access, Changed, Entry, Existing, Mapped, Mapping, MemType, Prot, Translation

K4, K16, K64 = 4 << 10, 16 << 10, 64 << 10

pytestmark = pytest.mark.slow


def stage2(config: TableConfig) -> Adapter:
    """Make the real table."""
    return Stage2(**config.keywords())


# --- the real table ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("granule", "lpa2"), [(K4, False), (K4, True), (K16, False), (K16, True), (K64, False), (K64, True)]
)
def test_stage2_is_as_the_model(granule: int, lpa2: bool) -> None:
    run_state_machine_as_test(make_machine(stage2, strategies.configs((granule,), lpa2)))


@given(config=strategies.configs(), ha_hd=st.sampled_from([(True, True), (True, False), (False, False)]))
def test_geometry_and_vtcr_are_as_the_models(config: TableConfig, ha_hd: tuple[bool, bool]) -> None:
    keywords = config.keywords() | {"ha": ha_hd[0], "hd": ha_hd[1]}
    real, model = Stage2(**keywords), ModelStage2(**keywords)
    assert real.geometry == model.geometry
    assert hex(real.vtcr) == hex(model.vtcr)


@given(
    granule=st.sampled_from([K4, K16, K64, 8 << 10]),
    ipa_bits=st.integers(30, 54),
    pa_bits=st.sampled_from([32, 36, 40, 42, 44, 45, 48, 52, 56]),
    start_level=st.sampled_from([None, -2, -1, 0, 1, 2, 3]),
    lpa2=st.booleans(),
    blocks=st.sampled_from(["arch", "kvm"]),
)
@settings(max_examples=300)
def test_the_same_tables_exist(**keywords: object) -> None:
    def made(kind: Callable[..., Stage2 | ModelStage2]) -> object:
        try:
            return kind(**keywords).geometry
        except S2ptError as error:
            return "refused", isinstance(error, ValueError)

    assert made(Stage2) == made(ModelStage2)


@pytest.mark.campaign
def test_campaign() -> None:
    examples = int(os.environ.get("S2PT_CAMPAIGN_EXAMPLES", "20000"))
    checks = settings(max_examples=examples, stateful_step_count=20, print_blob=True)
    run_state_machine_as_test(make_machine(stage2), settings=checks)


# --- the machine itself: what is wrong is found --------------------------------------------------------------------


class Wrong(ModelAdapter):
    """The model with one fault, and the tables and operations among which it is looked for: few, where it is rare."""

    tables = strategies.configs((K4,), lpa2=False)
    operations: tuple[str, ...] = strategies.OPERATIONS

    @property
    def page(self) -> int:
        return self.target.geometry.granule


FEW_FRAMES = Wrong.tables.filter(lambda config: config.frames is not None)
MAPS = ("map", "unmap")


class ForgetsTheLastPage(Wrong):
    def unmap(self, ipa: int, size: int) -> int:
        if size == self.page:
            return super().unmap(ipa, size)
        return super().unmap(ipa, size - self.page)


class SplitLosesAPage(Wrong):
    def split(self, ipa: int, size: int, level: int = 3) -> int:
        done = super().split(ipa, size, level)
        if done:
            super().unmap(ipa + size - self.page, self.page)
        return done


class LosesTheAccessFlag(Wrong):
    def write_protect(self, ipa: int, size: int) -> Changed:
        done = super().write_protect(ipa, size)
        if done.leaves:
            super().test_and_clear_young(ipa, size)
        return done


class UnmapsWholeBlocks(Wrong):
    """As KVM does: the whole leaf goes, whatever part of it was asked for."""

    def unmap(self, ipa: int, size: int) -> int:
        leaves = list(self.target.leaves(ipa, size))
        done = super().unmap(ipa, size)
        for leaf in leaves:
            super().unmap(leaf.ipa, leaf.size)
        return done


class WidensTheRange(Wrong):
    """Rounds silently, instead of refusing."""

    def unmap(self, ipa: int, size: int) -> int:
        return super().unmap(ipa // self.page * self.page, size)

    def protect(self, ipa: int, size: int, prot: Prot) -> Changed:
        return super().protect(ipa // self.page * self.page, size, prot)

    def relax(self, ipa: int, size: int, prot: Prot) -> Changed:
        return super().relax(ipa // self.page * self.page, size, prot)

    def split(self, ipa: int, size: int, level: int = 3) -> int:
        return super().split(ipa // self.page * self.page, size, level)


class SplitsWithoutNeed(Wrong):
    operations = (*MAPS, "write_protect")

    def write_protect(self, ipa: int, size: int) -> Changed:
        if not any(leaf.prot & Prot.W for leaf in self.target.leaves(ipa, size)):
            super().split(ipa, size)
        return super().write_protect(ipa, size)


class RelaxesOnlyTheFirst(Wrong):
    def relax(self, ipa: int, size: int, prot: Prot) -> Changed:
        done = super().relax(ipa, size, prot)
        first = next(iter(self.target.leaves(ipa, size)))
        return Changed(done.leaves, min(first.ipa + first.size, ipa + size) - ipa)


class KeepReplaces(Wrong):
    operations = MAPS

    def map(
        self,
        ipa: int,
        size: int,
        pa: int,
        prot: Prot,
        *,
        memtype: MemType = MemType.NORMAL,
        existing: Existing = Existing.REPLACE,
        largest: int | None = None,
        software: int = 0,
        af: bool = True,
        over_tables: bool = False,
    ) -> Mapped:
        if existing is Existing.KEEP and not over_tables:
            super().map(ipa, size, pa, prot, memtype=memtype, largest=largest, software=software, af=af)
            return Mapped(size, 0)
        how = {"existing": existing, "over_tables": over_tables}
        return super().map(ipa, size, pa, prot, memtype=memtype, largest=largest, software=software, af=af, **how)  # type: ignore[arg-type]


class HalfDoneWhenOutOfFrames(Wrong):
    tables = FEW_FRAMES
    operations = MAPS

    def unmap(self, ipa: int, size: int) -> int:
        try:
            return super().unmap(ipa, size)
        except OutOfFramesError:
            for leaf in list(self.target.leaves(ipa, size)):
                if leaf.ipa >= ipa and leaf.ipa + leaf.size <= ipa + size:
                    super().unmap(leaf.ipa, leaf.size)
            raise


class NeedsAFrameTooMany(Wrong):
    tables = FEW_FRAMES

    def _one_more(self, error: OutOfFramesError) -> OutOfFramesError:
        return OutOfFramesError(str(error), needed=(error.needed or 0) + 1)

    def write_protect(self, ipa: int, size: int) -> Changed:
        try:
            return super().write_protect(ipa, size)
        except OutOfFramesError as error:
            raise self._one_more(error) from error

    def unmap(self, ipa: int, size: int) -> int:
        try:
            return super().unmap(ipa, size)
        except OutOfFramesError as error:
            raise self._one_more(error) from error


class LeaksAFrame(Wrong):
    operations = ("map", "split", "collapse")
    leaked = 0

    def collapse(self, ipa: int, size: int) -> int:
        done = super().collapse(ipa, size)
        self.leaked += done
        return done

    @property
    def frames_in_use(self) -> int:
        return super().frames_in_use + self.leaked


class CollapsesTooMuch(Wrong):
    """Does not look at permissions."""

    operations = (*MAPS, "split", "protect", "collapse")

    def collapse(self, ipa: int, size: int) -> int:
        first = next(iter(self.target.leaves(ipa, size)), None)
        if first is not None and not first.memtype.forbids_execute:
            super().protect(ipa, size, first.prot)
        return super().collapse(ipa, size)


class NamesAnotherPlace(Wrong):
    def mark_young(self, ipa: int, size: int) -> Changed:
        try:
            return super().mark_young(ipa, size)
        except NotMappedError as error:
            raise NotMappedError(str(error), ipa + size, error.level) from error


class AgesOnlyTheFirst(Wrong):
    operations = (*MAPS, "mark_young", "test_young", "test_and_clear_young")

    def test_and_clear_young(self, ipa: int, size: int, flush: bool = False) -> bool:
        return super().test_and_clear_young(ipa, self.page if size else 0, flush)


class TranslatesOffByAPage(Wrong):
    def translate(self, ipa: int, access: Access) -> Translation:
        done = super().translate(ipa, access)
        return Translation(done.pa ^ self.page, done.level, done.prot, done.memtype) if done.level < 3 else done


class ShowsAnOldDescriptor(Wrong):
    def lookup(self, ipa: int) -> Entry:
        found = super().lookup(ipa)
        return Entry(found.raw & ~(1 << 54), found.level, found.base, found.kind)


class SkipsALeaf(Wrong):
    def leaves(self, ipa: int = 0, size: int | None = None) -> Iterable[Mapping]:
        return list(super().leaves(ipa, size))[:600]


WRONG = [
    ForgetsTheLastPage,
    SplitLosesAPage,
    LosesTheAccessFlag,
    UnmapsWholeBlocks,
    WidensTheRange,
    SplitsWithoutNeed,
    RelaxesOnlyTheFirst,
    KeepReplaces,
    HalfDoneWhenOutOfFrames,
    NeedsAFrameTooMany,
    LeaksAFrame,
    CollapsesTooMuch,
    NamesAnotherPlace,
    AgesOnlyTheFirst,
    TranslatesOffByAPage,
    ShowsAnOldDescriptor,
    SkipsALeaf,
]

# The same examples every time, and no search for the shortest: found or not is the question.
SEARCH = settings(
    max_examples=400,
    stateful_step_count=25,
    derandomize=True,
    database=None,
    phases=[Phase.generate],
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


@pytest.mark.parametrize("wrong", WRONG, ids=lambda wrong: wrong.__name__)
def test_a_wrong_table_is_found(wrong: type[Wrong]) -> None:
    machine = make_machine(wrong, wrong.tables, skip=set(strategies.OPERATIONS) - set(wrong.operations))
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=SEARCH)


def test_the_model_is_as_the_model() -> None:
    run_state_machine_as_test(make_machine(ModelAdapter, strategies.configs((K4,))))


def test_what_an_implementation_lacks_is_not_asked_for() -> None:
    class Lean(ModelAdapter):
        def collapse(self, ipa: int, size: int) -> int:
            raise NotImplementedError

        def fail_allocation(self, k: int) -> None:
            raise NotImplementedError

        @property
        def frames_in_use(self) -> int:
            raise NotImplementedError

    machine = make_machine(
        Lean, strategies.configs((K4,), quotas=False), skip={"collapse", "fail_allocation", "frames", "stats"}
    )
    run_state_machine_as_test(machine)
